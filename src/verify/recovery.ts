/** How long it took until what a fault had hit ran again. */
import type { TaskEvidence } from "./checker.ts"
import type { Evidence, Happened, Run } from "./evidence.ts"

export interface Recovery {
  readonly task: string
  readonly fault: Happened
  readonly millis: number
}

/** Faults that end the runs of a process, or take away what it holds. */
const hitting = new Set<Happened["what"]>(["kill", "freeze", "restart"])

const hits = ({ at, pids, until }: Happened, run: Run): boolean =>
  run.at <= until && (run.end === undefined || run.end.at >= at) &&
  (pids === undefined || pids.includes(run.pid) || pids.includes(run.parent))

/** What keeps a worker from looking after the others: for as long as it lasts, and one lease more for some. */
const disturbs = (fault: Happened, worker: number): boolean =>
  fault.what === "restart" || fault.worker === worker && fault.what !== "stall"

/**
 * From when there was a worker that nothing disturbed until this moment: who is to take care of what others have left.
 * A worker whose own connection was cut cannot tell that from an outage of the server, and waits as after one.
 */
const undisturbedSince = (evidence: Evidence, until: number): number => {
  let earliest = Number.POSITIVE_INFINITY
  for (let worker = 0; worker < evidence.workers; worker++) {
    let since = 0
    for (const fault of evidence.faults) {
      if (fault.at <= until && disturbs(fault, worker)) since = Math.max(since, Math.min(fault.until, until))
    }
    earliest = Math.min(earliest, since)
  }
  return earliest
}

/**
 * Recoveries of the runs that a fault has hit and that were followed by another. Time counts from the fault, or from when
 * the server could be reached again after it. A transaction that was open in a frozen process keeps its task until that
 * process goes on: there it counts from the fault's end.
 */
export const recoveries = (evidence: Evidence, tasks: ReadonlyMap<string, TaskEvidence>): ReadonlyArray<Recovery> => {
  const faults = evidence.faults.filter(({ what }) => hitting.has(what)).sort((a, b) => a.at - b.at)
  const found: Array<Recovery> = []
  for (const [task, { runs, sends }] of tasks) {
    const transactional = sends[0]?.kind === "transactional"
    runs.forEach((run, i) => {
      const next = runs[i + 1]
      // What has ended by itself is not tried again because of a fault.
      if (next === undefined || run.end?.how === "done" || run.end?.how === "failed") return
      const fault = faults.findLast((fault) => fault.at <= next.at && hits(fault, run))
      if (fault === undefined) return
      const from = fault.what === "freeze" && transactional ? fault.until : fault.at
      const millis = Math.max(0, next.at - Math.max(from, undisturbedSince(evidence, next.at)))
      found.push({ task, fault, millis })
    })
  }
  return found
}
