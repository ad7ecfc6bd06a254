/** From a payload and options to a task that is stored. */
import * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { Buffer } from "node:buffer"
import { Broker, type BrokerError, type IdTaken, type NewTask, type Sent, type Tags, type When } from "../Broker.ts"
import type { Definition } from "./definition.ts"
import { PayloadError } from "./errors.ts"
import { isId, makeId } from "./ids.ts"
import { isKey, isPriority, keyRule, latestTime, millisOf, priorityRule, spanOf, spanRule, wrongTag } from "./limits.ts"

/** Options of one `sendMany`. They hold for all of its tasks. */
export interface SendManyOptions {
  /** From 1, the most urgent, to 100, the default. */
  readonly priority?: number | undefined
  /** Start it no earlier than this from now, by the broker's clock. */
  readonly delay?: Duration.Input | undefined
  /** Start it no earlier than this, by the broker's clock. Not together with `delay`. */
  readonly runAt?: DateTime.DateTime.Input | undefined
  /** If it has not started within this time from now, it ends EXPIRED. */
  readonly goodFor?: Duration.Input | undefined
  /** If it has not started by then, by the broker's clock, it ends EXPIRED. Not together with `goodFor`. */
  readonly goodUntil?: DateTime.DateTime.Input | undefined
  /** How long one attempt may take. Default: that of the definition. */
  readonly timeout?: Duration.Input | undefined
  /** Keys and values by which it can be found, beside or instead of those of the definition. */
  readonly tags?: Tags | undefined
  /** Whose task it is. Default: what the definition says. */
  readonly concurrencyKey?: string | undefined
}

/** Options of one `send`. */
export interface SendOptions extends SendManyOptions {
  /**
   * The id of the task, from `Task.makeId`. A send with an id can be repeated safely: with the same id and the same
   * payload it stores nothing more, and says so in `duplicate`.
   */
  readonly id?: string | undefined
  /** At most one task of this definition with this key is stored inside the definition's `idempotencyWindow`. */
  readonly idempotencyKey?: string | undefined
}

const noOptions: SendOptions = {}

/** Tasks per statement of `sendMany`. */
const batchSize = 1000

/** And characters of payload: a thousand large ones would neither fit a statement nor a small memory. */
const batchCharacters = 4_000_000

export const newTask = Effect.fnUntraced(
  function*<Payload extends Schema.Top, Success extends Schema.Top, Error extends Schema.Top>(
    definition: Definition<Payload, Success, Error>,
    input: Payload["~type.make.in"],
    options: SendOptions = noOptions
  ) {
    const refuse = (message: string) => new PayloadError({ task: definition.name, message })
    const value = yield* Effect.mapError(definition.makePayload(input), (error) => refuse(error.message))
    const payload = yield* Effect.mapError(definition.encodePayload(value), (error) => refuse(error.message))
    const task: NewTask = {
      id: options.id ?? (yield* makeId),
      name: definition.name,
      queue: definition.queue,
      payload,
      version: definition.version,
      priority: options.priority ?? definition.priority,
      due: options.runAt === undefined
        ? { after: millisOf(options.delay ?? 0) ?? 0 }
        : { at: timeOf(options.runAt) ?? 0 },
      goodUntil: goodUntilOf(options),
      timeout: options.timeout === undefined ? definition.timeout : spanOf(options.timeout),
      maxLosses: definition.maxLosses,
      concurrencyKey: options.concurrencyKey ?? definition.concurrencyKey?.(value),
      tags: tagsOf(definition.tags?.(value), options.tags),
      retention: definition.retention,
      idempotency: idempotencyOf(options.idempotencyKey ?? definition.idempotencyKey?.(value), definition),
      repeated: options.id !== undefined
    }
    const wrong = wrongSize(payload, definition.payloadLimit) ?? wrongOption(options) ?? wrongTask(task)
    return wrong === undefined ? task : yield* refuse(wrong)
  }
)

const goodUntilOf = (options: SendOptions): When | undefined => {
  if (options.goodFor !== undefined) return { after: spanOf(options.goodFor) ?? 0 }
  return options.goodUntil === undefined ? undefined : { at: timeOf(options.goodUntil) ?? 0 }
}

const tagsOf = (own: Tags | undefined, given: Tags | undefined): Tags | undefined =>
  own === undefined || given === undefined ? own ?? given : { ...own, ...given }

const idempotencyOf = (key: string | undefined, definition: { readonly idempotencyWindow: number }) =>
  key === undefined ? undefined : { key, window: definition.idempotencyWindow }

/** A point in time that every broker can store, in milliseconds since the epoch. */
const timeOf = (input: DateTime.DateTime.Input): number | undefined => {
  const time = DateTime.make(input)
  const millis = time._tag === "Some" ? DateTime.toEpochMillis(time.value) : Number.NaN
  return millis >= 0 && millis <= latestTime ? millis : undefined
}

/** A character has at most three bytes: most payloads need not be measured. */
const wrongSize = (payload: string, limit: number): string | undefined => {
  if (payload.length * 3 <= limit) return undefined
  const bytes = Buffer.byteLength(payload)
  return bytes <= limit ? undefined : `the payload has ${bytes} bytes of JSON; at most ${limit} are allowed`
}

/** What is wrong with the options as they were written. */
const wrongOption = (options: SendOptions): string | undefined => {
  if (options === noOptions) return undefined
  const { delay, goodFor, goodUntil, id, runAt, timeout } = options
  if (id !== undefined && !isId(id)) {
    return `id is ${JSON.stringify(id)}; write a UUIDv7 in small letters, as Task.makeId makes them`
  }
  if (delay !== undefined && runAt !== undefined) return "give delay or runAt, not both"
  if (goodFor !== undefined && goodUntil !== undefined) return "give goodFor or goodUntil, not both"
  if (delay !== undefined && millisOf(delay) === undefined) {
    return "delay is out of range; write a duration between 0 and 2000 years"
  }
  if (goodFor !== undefined && spanOf(goodFor) === undefined) return `goodFor is out of range; write ${spanRule}`
  if (timeout !== undefined && spanOf(timeout) === undefined) return `timeout is out of range; write ${spanRule}`
  if (runAt !== undefined && timeOf(runAt) === undefined) {
    return "runAt is no time that can be stored; write one between 1970 and 9999"
  }
  if (goodUntil !== undefined && timeOf(goodUntil) === undefined) {
    return "goodUntil is no time that can be stored; write one between 1970 and 9999"
  }
  return undefined
}

/** What is wrong with what options and definition have made together. */
const wrongTask = ({ concurrencyKey, idempotency, priority, tags }: NewTask): string | undefined => {
  if (!isPriority(priority)) return `priority is ${priority}; write ${priorityRule}`
  if (concurrencyKey !== undefined && !isKey(concurrencyKey)) {
    return `concurrencyKey is ${JSON.stringify(concurrencyKey)}; write ${keyRule}`
  }
  if (idempotency !== undefined && !isKey(idempotency.key)) {
    return `idempotencyKey is ${JSON.stringify(idempotency.key)}; write ${keyRule}`
  }
  return tags === undefined ? undefined : wrongTag(tags)
}

/**
 * Stores tasks. When nobody can tell whether the first try has stored them, they are sent once more under the same ids:
 * the broker then leaves what is there. Inside a transaction the second try fails like the first.
 */
const sendTwice = (tasks: ReadonlyArray<NewTask>): Effect.Effect<ReadonlyArray<Sent>, BrokerError | IdTaken, Broker> =>
  Broker.use((broker) =>
    Effect.catch(
      broker.send(tasks),
      (error) =>
        error._tag === "BrokerError" && error.reason._tag === "Unavailable"
          ? broker.send(tasks.map((task) => ({ ...task, repeated: true })))
          : Effect.fail(error)
    )
  )

/** Stores one task. */
export const sendOne = (task: NewTask): Effect.Effect<Sent, BrokerError | IdTaken, Broker> =>
  task.repeated === true
    ? Effect.map(Broker.use((broker) => broker.send([task])), ([sent]) => sent ?? { id: task.id, duplicate: false })
    : Effect.map(sendTwice([task]), ([sent]) =>
      // Under an id that nobody else knows it can only have been stored by the first of two tries.
      sent === undefined || sent.id === task.id ? { id: task.id, duplicate: false } : sent)

interface Batch {
  readonly tasks: Array<NewTask>
  characters: number
}

const empty = (): Batch => ({ tasks: [], characters: 0 })

/** Gathers tasks into batches that are bounded in number and in size. */
const batched = Stream.mapAccum(
  empty,
  (batch: Batch, task: NewTask): readonly [Batch, ReadonlyArray<ReadonlyArray<NewTask>>] => {
    const full = batch.tasks.length === batchSize || batch.characters + task.payload.length > batchCharacters
    const next = full ? empty() : batch
    next.tasks.push(task)
    next.characters += task.payload.length
    return [next, full && batch.tasks.length > 0 ? [batch.tasks] : []]
  },
  { onHalt: ({ tasks }) => tasks.length === 0 ? [] : [tasks] }
)

/** Stores the tasks of a stream, a batch at a time. Succeeds with their number. */
export const sendStream = <E, R>(
  tasks: Stream.Stream<NewTask, E, R>
): Effect.Effect<number, E | BrokerError, R | Broker> =>
  tasks.pipe(
    batched,
    Stream.mapEffect((batch) =>
      // Ids that nobody else knows are not taken.
      Effect.as(Effect.catchTag(sendTwice(batch), "IdTaken", Effect.die), batch.length)
    ),
    Stream.runFold(() => 0, (sent, count) => sent + count)
  )
