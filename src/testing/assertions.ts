/**
 * Assertions about what was sent, for tests of services that send tasks. They ask the broker what it holds, so they work
 * over every broker: `MemoryBroker.layer` is enough.
 *
 * A task is found as long as the broker keeps it, whether it waits, runs, or has ended. An assertion that does not hold
 * is a defect whose message shows what was sent instead.
 *
 * @example
 * ```ts
 * import { MemoryBroker, Task } from "effect-horsies"
 * import { assertNotSent, assertSent } from "effect-horsies/testing/assertions"
 * import { it } from "@effect/vitest"
 * import { Effect, Schema } from "effect"
 *
 * class Remind extends Task.make("Remind", { payload: { email: Schema.String } }) {}
 *
 * it.effect("reminds Ada in an hour", () =>
 *   Effect.gen(function*() {
 *     yield* Remind.send({ email: "ada@example.com" }, { delay: "1 hour" })
 *     yield* assertSent(Remind, { payload: { email: "ada@example.com" }, delay: "1 hour" })
 *     yield* assertNotSent(Remind, { payload: { email: "bob@example.com" } })
 *   }).pipe(Effect.provide(MemoryBroker.layer)))
 * ```
 */
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import { Broker, type BrokerError, type Filter, type Tags, type TaskRecord, type TaskState } from "../Broker.ts"
import { DecodeError } from "../Task.ts"
import { jsonCodec } from "../task/codec.ts"
import { failureOf } from "./internal/failing.ts"
import { difference, type Part, show } from "./internal/matching.ts"

export type { Part } from "./internal/matching.ts"

/** The parts of a task definition that its tasks are recognised and read by. Every `Task.make(…)` is one. */
export interface Definition<Payload extends Schema.Top> {
  readonly _tag: string
  readonly version: number
  readonly payloadSchema: Payload
}

/** Everything that the broker knows of a task, with its payload decoded. Times are milliseconds, by the broker's clock. */
export interface SentTask<A> extends Omit<TaskRecord, "payload"> {
  readonly payload: A
}

/** Which tasks of a definition are meant: those that fit everything that is given. */
export interface SentFilter extends Omit<Filter, "name"> {
  /** Default: all. */
  readonly states?: ReadonlyArray<TaskState> | undefined
}

/** What is expected of a task: everything that is given. */
export interface Expected<A> {
  /** The parts of the payload that matter, or whether a payload is the expected one. */
  readonly payload?: Part<A> | ((payload: A) => boolean) | undefined
  readonly state?: TaskState | undefined
  readonly priority?: number | undefined
  readonly queue?: string | undefined
  /** From its sending to its due time. */
  readonly delay?: Duration.Input | undefined
  /** Its due time, by the broker's clock. */
  readonly runAt?: DateTime.DateTime.Input | undefined
  /** These at least. */
  readonly tags?: Tags | undefined
  readonly concurrencyKey?: string | undefined
}

/** Tasks per page. */
const pageSize = 1000

/** The most tasks that a message shows. */
const mostShown = 10

/** Every task that fits, the first sent first. */
const listAll = Effect.fnUntraced(function*(filter: Filter, states: ReadonlyArray<TaskState> | undefined) {
  const broker = yield* Broker
  const found: Array<TaskRecord> = []
  let page: ReadonlyArray<TaskRecord>
  do {
    page = yield* broker.list(filter, { states, before: found.at(-1)?.id, limit: pageSize })
    for (const record of page) found.push(record)
  } while (page.length === pageSize)
  return found.toReversed()
})

/**
 * The tasks of a definition that the broker holds or still keeps, the first sent first. Fails with `DecodeError` when the
 * payload of one does not decode, or was sent by another version of the definition.
 *
 * @example
 * ```ts
 * const waiting = yield* sent(Remind, { states: ["PENDING"] })
 * assert.deepStrictEqual(waiting.map(({ payload }) => payload.email), ["ada@example.com", "bob@example.com"])
 * ```
 */
export const sent = Effect.fnUntraced(function*<Payload extends Schema.Top>(
  definition: Definition<Payload>,
  filter: SentFilter = {}
): Effect.fn.Return<
  ReadonlyArray<SentTask<Payload["Type"]>>,
  BrokerError | DecodeError,
  Broker | Payload["DecodingServices"]
> {
  const { states, ...rest } = filter
  const { decode } = jsonCodec(definition.payloadSchema)
  const records = yield* listAll({ ...rest, name: definition._tag }, states)
  return yield* Effect.forEach(records, (record) => {
    const { id, version } = record
    const undecodable = (why: string) => new DecodeError({ id, message: `the payload of task ${id} ${why}` })
    return version === definition.version
      ? Effect.mapBoth(decode(record.payload), {
        onSuccess: (payload): SentTask<Payload["Type"]> => ({ ...record, payload }),
        onFailure: (error) => undecodable(`does not decode: ${error.message}`)
      })
      : Effect.fail(undecodable(`is of version ${version}, and ${definition._tag} of version ${definition.version}`))
  })
})

/**
 * Asserts that a task was sent that fits what is given: one at least, or exactly as many as `times` says. Gives the tasks
 * that fit, the first sent first. The payload of none of the definition's tasks may be undecodable.
 *
 * @example
 * ```ts
 * yield* assertSent(Remind, { payload: { email: "ada@example.com" }, delay: "1 hour", times: 1 })
 * const [reminder] = yield* assertSent(Remind, { payload: ({ email }) => email.endsWith("@example.com") })
 * ```
 */
export const assertSent = <Payload extends Schema.Top>(
  definition: Definition<Payload>,
  expected: Expected<Payload["Type"]> & { readonly times?: number | undefined } = {}
): Effect.Effect<
  readonly [SentTask<Payload["Type"]>, ...ReadonlyArray<SentTask<Payload["Type"]>>],
  BrokerError | DecodeError,
  Broker | Payload["DecodingServices"]
> => {
  const failure = failureOf(assertSent)
  const { times, ...rest } = expected
  if (times !== undefined && !(Number.isInteger(times) && times > 0)) {
    throw new Error(`assertSent: times is ${times}; write a whole number of at least 1, or use assertNotSent`)
  }
  return Effect.gen(function*() {
    const tasks = yield* sent(definition)
    const compared = tasks.map((task) => ({ task, difference: differenceOf(task, rest) }))
    const fitting = compared.filter(({ difference }) => difference === undefined).map(({ task }) => task)
    const [first, ...others] = fitting
    if (first !== undefined && (times === undefined || fitting.length === times)) return [first, ...others] as const
    const title = times === undefined || fitting.length === 0
      ? `no ${definition._tag} was sent${withExpected(rest)}`
      : `${definition._tag} was sent ${fitting.length} times instead of ${times}${withExpected(rest)}`
    return yield* Effect.die(failure([
      title,
      ...(fitting.length === 0 ? [] : some("these fit", fitting.map(describe))),
      ...(yield* instead(definition, compared))
    ].join("\n")))
  })
}

/**
 * Asserts that no task was sent that fits what is given; without it, that none of this definition was sent at all.
 *
 * @example
 * ```ts
 * yield* assertNotSent(Remind)
 * yield* assertNotSent(Remind, { payload: { email: "bob@example.com" } })
 * ```
 */
export const assertNotSent = <Payload extends Schema.Top>(
  definition: Definition<Payload>,
  expected: Expected<Payload["Type"]> = {}
): Effect.Effect<void, BrokerError | DecodeError, Broker | Payload["DecodingServices"]> => {
  const failure = failureOf(assertNotSent)
  return Effect.gen(function*() {
    const fitting = (yield* sent(definition)).filter((task) => differenceOf(task, expected) === undefined)
    if (fitting.length === 0) return
    return yield* Effect.die(failure(
      some(`${definition._tag} was sent${withExpected(expected)}`, fitting.map(describe)).join("\n")
    ))
  })
}

/** In what a task is not as expected, or nothing when it fits. */
const differenceOf = <A>(task: SentTask<A>, { delay, payload, runAt, ...rest }: Expected<A>): string | undefined => {
  if (isPredicate(payload)) {
    if (!payload(task.payload)) return "payload is not the expected one"
  } else {
    const found = payload === undefined ? undefined : difference("payload", task.payload, payload)
    if (found !== undefined) return found
  }
  for (const key of ["state", "priority", "queue", "tags", "concurrencyKey"] as const) {
    const found = rest[key] === undefined ? undefined : difference(key, task[key], rest[key])
    if (found !== undefined) return found
  }
  if (delay !== undefined && !isNear(task.dueAt - task.sentAt, Duration.toMillis(Duration.fromInputUnsafe(delay)))) {
    return `delay is ${showDelay(task)} instead of ${showDuration(delay)}`
  }
  if (runAt !== undefined && !isNear(task.dueAt, DateTime.toEpochMillis(DateTime.makeUnsafe(runAt)))) {
    return `runAt is ${showTime(task.dueAt)} instead of ${showTime(runAt)}`
  }
  return undefined
}

const isPredicate = <A>(payload: Expected<A>["payload"]): payload is (payload: A) => boolean =>
  typeof payload === "function"

/** Brokers keep times in different fractions of a millisecond. */
const isNear = (actual: number, expected: number) => Math.abs(actual - expected) < 1

const showDuration = (duration: Duration.Input) => Duration.format(Duration.fromInputUnsafe(duration))
const showTime = (time: DateTime.DateTime.Input) => DateTime.formatIso(DateTime.makeUnsafe(time))
const showDelay = ({ dueAt, sentAt }: { readonly dueAt: number; readonly sentAt: number }) =>
  showDuration(Duration.millis(Math.round(dueAt - sentAt)))

const withExpected = <A>({ delay, payload, runAt, ...rest }: Expected<A>): string => {
  const parts = [
    ...(payload === undefined
      ? []
      : [`payload ${isPredicate(payload) ? "as the predicate wants it" : show(payload)}`]),
    ...Object.entries(rest).flatMap(([key, value]) => value === undefined ? [] : [`${key} ${show(value)}`]),
    ...(delay === undefined ? [] : [`delay ${showDuration(delay)}`]),
    ...(runAt === undefined ? [] : [`runAt ${showTime(runAt)}`])
  ]
  return parts.length === 0 ? "" : ` with ${parts.join(", ")}`
}

const describe = <A>(task: SentTask<A>): string =>
  [
    show(task.payload),
    task.state,
    ...(task.dueAt > task.sentAt ? [`delay ${showDelay(task)}`] : []),
    `priority ${task.priority}`,
    ...(task.concurrencyKey === undefined ? [] : [`concurrencyKey ${show(task.concurrencyKey)}`]),
    ...(Object.keys(task.tags).length === 0 ? [] : [`tags ${show(task.tags)}`])
  ].join(", ")

/** A list of which the beginning says enough. */
const some = (title: string, entries: ReadonlyArray<string>): ReadonlyArray<string> => [
  `${title}:`,
  ...entries.slice(0, mostShown).map((entry) => `  ${entry}`),
  ...(entries.length > mostShown ? [`  and ${entries.length - mostShown} more`] : [])
]

/** What was sent that does not fit; when there is nothing of this definition, what else. */
const instead = Effect.fnUntraced(function*<A>(
  { _tag: name }: { readonly _tag: string },
  compared: ReadonlyArray<{ readonly task: SentTask<A>; readonly difference: string | undefined }>
) {
  const others = compared.flatMap(({ difference, task }) =>
    difference === undefined ? [] : [`${describe(task)}: ${difference}`]
  )
  if (others.length > 0) return some(`sent instead, ${name}`, others)
  if (compared.length > 0) return []
  const counts = new Map<string, number>()
  for (const { name } of yield* listAll({}, undefined)) counts.set(name, (counts.get(name) ?? 0) + 1)
  return counts.size === 0
    ? ["nothing was sent at all"]
    : some("sent instead", [...counts].map(([name, count]) => `${name}, ${count} times`))
})
