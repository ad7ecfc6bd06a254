/** Whether what a broker says of tasks agrees with the model. */
import type { AttemptRecord, Outcome, TaskRecord, WhyNotRunning } from "../../Broker.ts"
import { isNear } from "./claims.ts"
import type { Model } from "./Model.ts"
import { isMoreUrgent, type ModelTask } from "./ModelTask.ts"
import { type Rule, show } from "./rules.ts"

/** Which rule is broken when a field is not as it has to be. */
const fields = {
  id: "answers",
  name: "answers",
  queue: "answers",
  payload: "answers",
  priority: "answers",
  version: "answers",
  timeout: "answers",
  concurrencyKey: "answers",
  tags: "answers",
  cancelling: "cancellations",
  origin: "resends",
  successor: "resends",
  fence: "fences",
  state: "outcomes",
  worker: "outcomes",
  outcome: "outcomes",
  sentAt: "time",
  dueAt: "time",
  goodUntil: "time",
  endedAt: "time",
  attempts: "attempts",
  history: "attempts",
  losses: "losses"
} as const satisfies Record<keyof TaskRecord, Rule>

const isSameAttempt = (a: AttemptRecord | undefined, b: AttemptRecord | undefined): boolean =>
  a !== undefined && b !== undefined && a.attempt === b.attempt && a.outcome === b.outcome && a.worker === b.worker &&
  // When an attempt began whose process died nobody need know.
  (a.outcome === "Lost" || isNear(a.startedAt, b.startedAt)) && isNear(a.endedAt, b.endedAt) &&
  isEqual(a.error, b.error)

const isEqual = (a: unknown, b: unknown): boolean =>
  a === b || (typeof a === "object" && typeof b === "object" && show(a) === show(b))

const isSame = (field: keyof TaskRecord, a: unknown, b: unknown): boolean => {
  if (field === "history") {
    const [one, other] = [a, b] as ReadonlyArray<ReadonlyArray<AttemptRecord>>
    return one!.length === other!.length && one!.every((attempt, i) => isSameAttempt(attempt, other![i]))
  }
  if (typeof a === "number" && typeof b === "number") return isNear(a, b)
  return isEqual(a, b)
}

/** What the broker is free to decide: when it ends a task that is over, and in what words one is lost for good. */
const adopt = (model: Model, task: ModelTask, record: TaskRecord) => {
  if (task.state === "PENDING" && record.state === "EXPIRED" && model.isTooLate(task)) {
    model.end(task, { _tag: "Expired" })
  }
  const last = task.history.at(-1)
  const { outcome } = record
  if (
    task.outcome?._tag === "Failed" && task.outcome.failure.kind === "Lost" && task.outcome.failure.value === "" &&
    last !== undefined && outcome?._tag === "Failed" && outcome.failure.kind === "Lost"
  ) {
    task.outcome = outcome
    task.history = [...task.history.slice(0, -1), { ...last, error: JSON.parse(outcome.failure.value) }]
  }
}

export const compareTask = (model: Model, task: ModelTask, record: TaskRecord) => {
  adopt(model, task, record)
  for (const [field, rule] of Object.entries(fields) as ReadonlyArray<[keyof TaskRecord, Rule]>) {
    const [expected, actual] = [task[field], record[field]]
    model.expect(
      isSame(field, expected, actual),
      field === "state" && actual === "EXPIRED" ? "time" : rule,
      () => `${task.alias} has ${field} ${show(actual)}, not ${show(expected)}`
    )
  }
}

/** All tasks that the broker has of this sequence. What has been kept for long enough may be missing. */
export const compareAll = (model: Model, records: ReadonlyArray<TaskRecord>) => {
  const found = new Map(records.map((record) => [record.id, record]))
  for (const [id, task] of model.tasks) {
    const record = found.get(id)
    if (record !== undefined) compareTask(model, task, record)
    else if (model.isOver(task)) model.tasks.delete(id)
    else model.expect(false, task.endedAt === undefined ? "kept" : "time", () => `${task.alias} is gone`)
  }
  for (const { id } of records) {
    model.expect(model.tasks.has(id), "kept", () => `there is a task that nobody has sent: ${show(found.get(id))}`)
  }
  model.expect(
    records.every(({ id }, i) => i === 0 || id < records[i - 1]!.id),
    "answers",
    () => `the list is not in the order of the ids: ${records.map(({ id }) => id)}`
  )
}

export const compareOutcome = (model: Model, task: ModelTask, outcome: Outcome) =>
  model.expect(
    show(outcome) === show(task.outcome),
    "outcomes",
    () => `the outcome of ${task.alias} is ${show(outcome)}, not ${show(task.outcome)}`
  )

/** The reasons why a task may be said not to run, or what is wrong with the one that was given. */
const explains = (model: Model, task: ModelTask, why: WhyNotRunning): boolean => {
  const { concurrencyKey, dueAt, endedAt, name, queue: queueName, state, version, worker } = task
  if (endedAt !== undefined) return why._tag === "Ended" && why.state === state && isNear(why.at, endedAt)
  if (state === "CLAIMED") return why._tag === "Claimed" && why.worker === worker
  if (dueAt > model.now) return why._tag === "NotDue" && isNear(why.dueAt, dueAt)
  const { settings: { limits, paused } } = model.queue(queueName)
  if (paused) return why._tag === "Paused" && why.queue === queueName
  const versions = model.workers
    .filter(({ beatAt, lease, state }) => state === "alive" && beatAt + lease >= model.now)
    .flatMap(({ handles }) => handles.filter((handled) => handled.name === name && handled.queue === queueName))
    .map((handled) => handled.version)
  const known = Math.max(0, ...versions)
  if (known === 0) return why._tag === "NoWorker" && why.queue === queueName && why.name === name
  if (known < version) return why._tag === "NewerVersion" && why.version === version && why.known === known
  const claimed = model.claimed.filter((other) => other.queue === queueName)
  const scopes = [
    { limit: limits.concurrency, key: undefined, holders: claimed },
    ...(concurrencyKey === undefined ? [] : [{
      limit: limits.perKey?.concurrency,
      key: concurrencyKey,
      holders: claimed.filter((other) => other.concurrencyKey === concurrencyKey)
    }])
  ]
  for (const { holders, key, limit } of scopes) {
    if (limit === undefined || holders.length < limit) continue
    return why._tag === "Concurrency" && why.limit === limit && why.concurrencyKey === key &&
      show([...why.holders].sort()) === show(holders.map(({ id }) => id).sort())
  }
  if (why._tag === "Rate") {
    const rate = why.concurrencyKey === undefined ? limits.rate : limits.perKey?.rate
    return rate !== undefined && why.freeAt > model.now && (why.concurrencyKey ?? concurrencyKey) === concurrencyKey
  }
  const ahead = [...model.tasks.values()].filter((other) =>
    other.state === "PENDING" && other.queue === queueName && other.name === name &&
    other.concurrencyKey === concurrencyKey && other.dueAt <= model.now && isMoreUrgent(other, task)
  )
  // Whether those count that were lost, or are of another version, or wait for their promotion, is not said.
  const surely = ahead.filter((other) => other.ready && other.losses === 0 && other.version === version)
  return why._tag === "Nothing" && why.ahead >= surely.length && why.ahead <= ahead.length
}

export const compareReason = (model: Model, task: ModelTask, why: WhyNotRunning) =>
  model.expect(
    explains(model, task, why),
    why._tag === "NoWorker" ? "liveness" : "answers",
    () => `${task.alias} (${task.state}) is said not to run because of ${show(why)}`
  )
