/** What a run tells its user. */
import { byTask, type Report, type TaskEvidence, type Violation } from "./checker.ts"
import type { Evidence, Happened } from "./evidence.ts"

/** Tasks whose history is told in full. */
const most = 20

const clock = (from: number, at: number) => `${((at - from) / 1000).toFixed(3).padStart(9)} s`

export const faultLine = (from: number, { at, detail, until, what }: Happened): string =>
  `${clock(from, at)}  ${what.padEnd(10)}${detail}${until - at > 1 ? ` (over after ${(until - at) / 1000} s)` : ""}`

const groupBy = <A, K>(all: ReadonlyArray<A>, by: (a: A) => K): ReadonlyMap<K, ReadonlyArray<A>> => {
  const groups = new Map<K, Array<A>>()
  for (const a of all) {
    const group = groups.get(by(a))
    if (group === undefined) groups.set(by(a), [a])
    else group.push(a)
  }
  return groups
}

/** What has happened to a task, with the times. What has none comes last. */
const events = (task: TaskEvidence): Array<readonly [at: number, what: string]> => {
  const found: Array<readonly [number, string]> = []
  for (const { acknowledgedAt, at, id, key, kind } of task.sends) {
    found.push([at, `sent as ${id} (${kind}, ${key})`])
    if (acknowledgedAt !== undefined) found.push([acknowledgedAt, `send of ${id} acknowledged`])
  }
  for (const { at, end, fence, pid, worker } of task.runs) {
    found.push([at, `run begins under fence ${fence} in process ${pid} of worker ${worker}`])
    if (end !== undefined) found.push([end.at, `run under fence ${fence} ends: ${end.how}`])
  }
  for (const { attempts, by, endedAt, failure, fence, past, state } of task.outcomes) {
    const kind = failure === undefined ? "" : ` (${failure})`
    const ran = by === undefined ? "" : `, by the run with fence ${by.fence} in process ${by.pid}`
    const before = past.length === 0 ? "" : `; before: ${JSON.stringify(past)}`
    found.push([endedAt, `${state}${kind} recorded under fence ${fence} after ${attempts} attempts${ran}${before}`])
  }
  return found
}

/** Everything that is known of a task whose rules are broken, in the order in which it happened. */
const history = (
  evidence: Evidence,
  from: number,
  id: string,
  task: TaskEvidence | undefined,
  broken: ReadonlyArray<Violation>
): string => {
  const found = task === undefined ? [] : events(task)
  const times = found.map(([at]) => at)
  const [begin, end] = [Math.min(...times), Math.max(...times)]
  for (const { at, detail, until, what } of evidence.faults) {
    if (until >= begin && at <= end) found.push([at, `fault: ${what} ${detail}`])
  }
  return [
    `task ${id}`,
    ...broken.map(({ message, rule }) => `  ${rule}: ${message}`),
    ...found.sort(([a], [b]) => a - b).map(([at, what]) => `  ${clock(from, at)}  ${what}`),
    ...(task?.effects ?? []).map(({ fence }) => `  a row is there, written under fence ${fence}`)
  ].join("\n")
}

/** The report for people. `from` is when the run began. */
export const text = (report: Report, evidence: Evidence, from: number): string => {
  const { violations, ...numbers } = report
  const tasks = violations.length === 0 ? new Map<string, TaskEvidence>() : byTask(evidence)
  const ofTasks = violations.flatMap(({ task, ...rest }) => task === undefined ? [] : [{ task, ...rest }])
  const broken = [...groupBy(ofTasks, ({ task }) => task)]
  return [
    ...Object.entries(numbers).map(([name, value]) => `${name.padEnd(20)}${value}`),
    `${"seed".padEnd(20)}${evidence.seed}`,
    ...[...groupBy(violations, ({ rule }) => rule)].map(([rule, { length }]) => `broken: ${rule}, ${length} times`),
    ...violations.flatMap(({ message, rule, task }) => task === undefined ? [`${rule}: ${message}`] : []),
    ...broken.slice(0, most).map(([id, violations]) => history(evidence, from, id, tasks.get(id), violations)),
    ...(broken.length > most ? [`… and ${broken.length - most} more tasks`] : [])
  ].join("\n")
}

/** The report for programs: one line. */
export const json = (report: Report, evidence: Evidence): string => {
  const {
    acknowledged,
    cuts,
    effectsDoubled,
    effectsMissing,
    extraRuns,
    freezes,
    kills,
    lost,
    maxRecoverySeconds,
    outcomes,
    recordedTwice,
    restarts,
    sent,
    staleFinishes
  } = report
  return JSON.stringify({
    sent,
    acknowledged,
    outcomes,
    lost,
    recordedTwice,
    staleFinishes,
    effectsMissing,
    effectsDoubled,
    extraRuns,
    kills,
    freezes,
    restarts,
    cuts,
    maxRecoverySeconds,
    seed: evidence.seed
  })
}
