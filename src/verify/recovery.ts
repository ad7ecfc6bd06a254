/** How long it took until what a fault had hit ran again. */
import { Interruption } from "../Broker.ts"
import type { TaskEvidence } from "./checker.ts"
import type { Evidence, Happened, PastAttempt, Run } from "./evidence.ts"

export interface Recovery {
  readonly task: string
  readonly fault: Happened
  readonly millis: number
}

/** Faults that end the runs of a process, or take away what it holds. */
export const hitting = new Set<Happened["what"]>(["kill", "freeze", "partition", "restart"])

const hits = ({ at, pids, until }: Happened, run: Run, end: number): boolean =>
  run.at <= until && end >= at && (pids === undefined || pids.includes(run.pid) || pids.includes(run.parent))

/** What keeps a worker from looking after the others while it lasts. What is only late does not. */
const disturbs = (fault: Happened, worker: number): boolean =>
  fault.what === "restart" || fault.worker === worker && fault.what !== "delay"

/**
 * The longest time between two moments in which nothing has disturbed one of the workers: it is to take care of what others
 * have left.
 */
const undisturbed = (evidence: Evidence, from: number, to: number): number => {
  let longest = 0
  for (let worker = 0; worker < evidence.workers; worker++) {
    let since = from
    for (const fault of evidence.faults) {
      if (fault.until <= since || !disturbs(fault, worker)) continue
      longest = Math.max(longest, Math.min(fault.at, to) - since)
      since = fault.until
    }
    longest = Math.max(longest, to - since)
  }
  return longest
}

/** How soon a process that stood still begins what it was given meanwhile, in milliseconds. */
const afterStall = 1000

/** Until when the process stood still in which a task runs again, if it was given the task meanwhile. */
const stalledUntil = ({ faults }: Evidence, pid: number, at: number): number =>
  Math.max(
    0,
    ...faults.filter(({ pids, what }) => what === "stall" && pids?.includes(pid) === true)
      .map(({ until }) => Math.min(until, at))
      .filter((until) => until > at - afterStall)
  )

/** Until when the transaction of a run may have been open because its worker was frozen, or its link dead without a sign. */
const heldUntil = ({ faults }: Evidence, run: Run, at: number): number =>
  Math.max(
    0,
    ...faults.filter((fault) =>
      (fault.what === "freeze" || fault.what === "partition" || fault.what === "cut") && fault.worker === run.worker &&
      fault.at < fault.until && fault.at <= (run.end?.at ?? at) && run.at <= fault.until
    ).map(({ until }) => Math.min(until, at))
  )

/** Outcomes of attempts that say nothing of how their handler has ended. */
const unfinished = new Set<string>(["Lost", ...Interruption.literals])

/** Attempts that the table has of a task, in their order: the last one is that of its outcome. */
const attemptsOf = ({ outcomes }: TaskEvidence): ReadonlyArray<PastAttempt> =>
  outcomes.flatMap(({ endedAt, failure, past, startedAt, state }) => [
    ...past,
    { outcome: failure ?? state, startedAt, endedAt }
  ])

/**
 * The attempt that the table has of a run, none where it left no trace, and the one after it. What came of a later run lies
 * nearer to that.
 */
const ownAndNext = (
  attempts: ReadonlyArray<PastAttempt>,
  run: Run,
  next: Run
): readonly [own: PastAttempt | undefined, after: PastAttempt | undefined] => {
  const i = attempts.findIndex(({ endedAt }) => endedAt > run.at)
  if (i < 0) return [undefined, undefined]
  const startedAt = attempts[i]?.startedAt ?? run.at
  return startedAt - run.at > next.at - startedAt ? [undefined, attempts[i]] : [attempts[i], attempts[i + 1]]
}

/**
 * When a task ran again after this run. None when its end was recorded, or its worker itself has handed it back (after a
 * transaction that could not be committed): what comes after that is no recovery. It ran again when the next attempt started:
 * its handler may begin later (a transactional one waits for a connection first), or not at all. Where nobody knows when an
 * attempt started whose handler did not begin, it counts when the task was free for it.
 */
const againAt = (task: TaskEvidence, run: Run, next: Run): number | undefined => {
  const [own, after] = ownAndNext(attemptsOf(task), run, next)
  const lost = own !== undefined && own.endedAt <= next.at && unfinished.has(own.outcome)
  if (run.end !== undefined && run.end.how !== "interrupted" && !lost) return undefined
  if (after?.startedAt != null) return Math.min(next.at, after.startedAt)
  return own === undefined || after === undefined || after.endedAt > next.at ? next.at : own.endedAt
}

/**
 * Recoveries of the runs that a fault has hit, or whose end it has kept from being recorded, and that were followed by
 * another. Time counts from the fault, or from when the server could be reached again after it. A transaction that was open
 * in a process that is frozen, or cut off, keeps its task until that goes on: there it counts from the fault's end. So it does
 * where a process was given the task while it stood still itself.
 */
export const recoveries = (evidence: Evidence, tasks: ReadonlyMap<string, TaskEvidence>): ReadonlyArray<Recovery> => {
  const faults = evidence.faults.filter(({ what }) => hitting.has(what)).sort((a, b) => a.at - b.at)
  const found: Array<Recovery> = []
  for (const [id, task] of tasks) {
    const { runs, sends } = task
    const transactional = sends[0]?.kind === "transactional"
    runs.forEach((run, i) => {
      const next = runs[i + 1]
      const at = next === undefined ? undefined : againAt(task, run, next)
      if (at === undefined) return
      const end = run.end?.how === "interrupted" ? run.end.at : at
      const fault = faults.findLast((fault) => fault.at <= at && hits(fault, run, end))
      if (fault === undefined) return
      const from = Math.max(
        fault.at,
        transactional ? heldUntil(evidence, run, at) : 0,
        stalledUntil(evidence, next!.pid, at)
      )
      const millis = undisturbed(evidence, from, at)
      found.push({ task: id, fault, millis })
    })
  }
  return found
}
