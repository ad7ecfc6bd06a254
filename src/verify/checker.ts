/** Looks for broken rules in what a run has left behind. Knows nothing of how it came about. */
import type { Evidence, Happened, Outcome, Run, Send } from "./evidence.ts"
import { hitting, recoveries } from "./recovery.ts"
import { mostLosses, retries } from "./tasks.ts"

/** What a rule promises. */
export type Rule =
  | "lost"
  | "recordedTwice"
  | "staleFinish"
  | "effectMissing"
  | "effectDoubled"
  | "wrongOutcome"
  | "refused"
  | "fenceTwice"
  | "lateRecovery"
  | "lateStart"
  | "nothingSent"
  | "nothingRecovered"
  | "faultMissing"
  | "crashed"
  | "hung"

export interface Violation {
  readonly rule: Rule
  /** None: it is about the run as a whole. */
  readonly task: string | undefined
  readonly message: string
}

export interface Report {
  readonly sent: number
  readonly acknowledged: number
  readonly outcomes: number
  readonly lost: number
  readonly recordedTwice: number
  readonly staleFinishes: number
  readonly effectsMissing: number
  readonly effectsDoubled: number
  /** Runs of handlers beyond those that attempts account for. */
  readonly extraRuns: number
  /** How many recoveries `maxRecoverySeconds` is the longest of. */
  readonly recoveries: number
  readonly kills: number
  readonly freezes: number
  readonly restarts: number
  readonly cuts: number
  readonly maxRecoverySeconds: number
  readonly maxStartSeconds: number
  readonly violations: ReadonlyArray<Violation>
}

/** Everything about one task. */
export interface TaskEvidence {
  readonly sends: Array<Send>
  readonly runs: Array<Run>
  readonly outcomes: Array<Outcome>
  readonly effects: Array<{ readonly fence: number }>
}

/** The evidence, by the id of the task that is stored. Runs are in the order of their fences. */
export const byTask = (evidence: Evidence): ReadonlyMap<string, TaskEvidence> => {
  const tasks = new Map<string, TaskEvidence>()
  const of = (task: string): TaskEvidence => {
    let found = tasks.get(task)
    if (found === undefined) tasks.set(task, found = { sends: [], runs: [], outcomes: [], effects: [] })
    return found
  }
  for (const send of evidence.sends) of(send.stored ?? send.id).sends.push(send)
  for (const run of evidence.runs) of(run.task).runs.push(run)
  for (const outcome of evidence.outcomes) of(outcome.task).outcomes.push(outcome)
  for (const effect of evidence.effects) of(effect.task).effects.push(effect)
  for (const { runs } of tasks.values()) runs.sort((a, b) => a.fence - b.fence || a.at - b.at)
  return tasks
}

/** Whether the hold under which an outcome is recorded was not that of the run that came to it. */
const staleness = ({ outcomes, runs }: TaskEvidence, outcome: Outcome): string | undefined => {
  const { by, fence } = outcome
  const highest = runs.at(-1)?.fence ?? 0
  if (highest > fence) return `recorded under fence ${fence} after a run had begun under fence ${highest}`
  if (by === undefined) return undefined
  if (by.fence !== fence) return `recorded under fence ${fence} by a run that had fence ${by.fence}`
  const run = runs.find((run) => run.fence === fence)
  if (run === undefined) return `recorded under fence ${fence}, under which no run has begun`
  if (run.pid !== by.pid) return `recorded by process ${by.pid}, but process ${run.pid} ran it under fence ${fence}`
  return outcomes.some((other) => other.fence > fence) ? "another outcome has a higher fence" : undefined
}

/** What the outcome of a task should have been, where that is certain. */
const wrongness = (task: TaskEvidence, outcome: Outcome, cancelled: boolean): string | undefined => {
  const { failure, past, state } = outcome
  if (cancelled) return state === "CANCELLED" ? undefined : `it had been cancelled, and is ${state}`
  // Lost workers end any task: the last of them is in no attempt before.
  if (failure === "Lost") {
    const losses = 1 + past.filter(({ outcome }) => outcome === "Lost").length
    return losses >= mostLosses ? undefined : `it has failed as lost after ${losses} losses instead of ${mostLosses}`
  }
  const [send] = task.sends
  if (send === undefined) return undefined
  if (send.kind === "cancelled" && state === "CANCELLED") return undefined
  const expected = send.failures > retries ? "FAILED" : "COMPLETED"
  return state === expected ? undefined : `it is ${state} (${failure ?? "no failure"}) instead of ${expected}`
}

/** Whether a fault has taken tasks from a worker. */
const takesAWorkerAway = ({ what, worker }: Happened) => worker !== undefined && hitting.has(what)

/** Checks a run. Its report says what was found, and which rules are broken. */
export const check = (evidence: Evidence): Report => {
  const violations: Array<Violation> = []
  const found: Partial<Record<Rule, number>> = {}
  const violated = (rule: Rule, task: string | undefined, message: string, count = 1) => {
    found[rule] = (found[rule] ?? 0) + count
    violations.push({ rule, task, message })
  }
  for (const fault of evidence.missing) violated("faultMissing", undefined, `planned, and never happened: ${fault}`)
  for (const process of evidence.crashed) violated("crashed", undefined, process)
  for (const process of evidence.hung) violated("hung", undefined, process)
  const live = new Map(evidence.live.map((row) => [row.task, row]))
  const cancelled = new Set(evidence.cancelled)
  const keys = new Map<string, string>()
  let acknowledged = 0
  let extraRuns = 0

  const tasks = byTask(evidence)
  for (const [id, task] of tasks) {
    const { effects, outcomes, runs, sends } = task
    const acknowledgedHere = sends.filter((send) => send.acknowledgedAt !== undefined)
    acknowledged += acknowledgedHere.length
    for (const send of sends) {
      if (send.refused !== undefined) violated("refused", id, `a send was refused: ${send.refused}`)
    }
    for (const send of acknowledgedHere) {
      if (send.kind !== "once") {
        if (send.stored !== send.id) violated("wrongOutcome", id, `sent as ${send.id}, stored as ${send.stored}`)
        continue
      }
      const first = keys.get(send.key)
      if (first === undefined) keys.set(send.key, id)
      else if (first !== id) violated("recordedTwice", id, `its idempotency key has the task ${first}, too`)
    }

    if (acknowledgedHere.length > 0 && outcomes.length === 0) {
      const row = live.get(id)
      violated(
        "lost",
        id,
        row === undefined ? "acknowledged, and there is no trace of it" : `acknowledged, and still ${row.state}`
      )
    }
    if (outcomes.length > 1) violated("recordedTwice", id, `${outcomes.length} outcomes are recorded`)
    if (outcomes.length > 0 && live.has(id)) violated("recordedTwice", id, "it has ended, and is still there")
    for (const outcome of outcomes) {
      const stale = staleness(task, outcome)
      if (stale !== undefined) violated("staleFinish", id, stale)
      const wrong = wrongness(task, outcome, cancelled.has(id))
      if (wrong !== undefined) violated("wrongOutcome", id, wrong)
    }
    runs.forEach((run, i) => {
      if (run.fence === runs[i + 1]?.fence) violated("fenceTwice", id, `two runs have fence ${run.fence}`)
    })

    const completed = sends[0]?.kind === "transactional"
      ? outcomes.find(({ state }) => state === "COMPLETED")
      : undefined
    const expected = completed === undefined ? 0 : 1
    if (completed !== undefined && !effects.some(({ fence }) => fence === completed.fence)) {
      violated("effectMissing", id, `it is COMPLETED under fence ${completed.fence}, and the row of that is missing`)
    }
    if (effects.length > expected) {
      violated("effectDoubled", id, `${effects.length} rows instead of ${expected}`, effects.length - expected)
    }
    extraRuns += Math.max(0, runs.length - Math.max(1, outcomes[0]?.attempts ?? 1))
  }

  const { bounds, faults, probes } = evidence
  if (acknowledged === 0) violated("nothingSent", undefined, "no task was sent: this run has shown nothing")
  const recovered = recoveries(evidence, tasks)
  if (recovered.length === 0 && faults.some(takesAWorkerAway)) {
    violated("nothingRecovered", undefined, "workers were taken away, and no recovery could be measured")
  }
  let slowest = 0
  for (const { fault, millis, task } of recovered) {
    slowest = Math.max(slowest, millis)
    if (millis > bounds.recovery) {
      violated("lateRecovery", task, `ran again ${millis / 1000} s after: ${fault.what} ${fault.detail}`)
    }
  }
  let latest = 0
  for (const probe of probes) {
    const began = tasks.get(probe.task)?.runs[0]?.at
    const millis = began === undefined ? Number.POSITIVE_INFINITY : began - probe.at
    latest = Math.max(latest, millis)
    if (millis > bounds.start) {
      violated("lateStart", probe.task, `began ${millis / 1000} s after it was sent to idle worker ${probe.worker}`)
    }
  }

  const count = (what: string) => faults.filter((fault) => fault.what === what).length
  return {
    sent: evidence.sends.length,
    acknowledged,
    outcomes: evidence.outcomes.length,
    lost: found.lost ?? 0,
    recordedTwice: found.recordedTwice ?? 0,
    staleFinishes: (found.staleFinish ?? 0) + (found.fenceTwice ?? 0),
    effectsMissing: found.effectMissing ?? 0,
    effectsDoubled: found.effectDoubled ?? 0,
    extraRuns,
    recoveries: recovered.length,
    kills: count("kill"),
    freezes: count("freeze"),
    restarts: count("restart"),
    cuts: count("cut") + count("partition"),
    maxRecoverySeconds: slowest / 1000,
    maxStartSeconds: latest / 1000,
    violations
  }
}
