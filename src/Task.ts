/**
 * What a developer writes: a task definition, and with it how to send, await and handle such tasks.
 *
 * A definition is a class. Its name identifies it to every process that sends or handles such tasks, so it must not
 * change while tasks are waiting. Payload, success and error are described by schemas; what is stored is the JSON of
 * their encoding.
 *
 * @example
 * ```ts
 * import { PostgresBroker, Task, Worker } from "effect-horsies"
 * import { Effect, Layer, Schema } from "effect"
 *
 * class Greet extends Task.make("Greet", {
 *   payload: { name: Schema.String },
 *   success: Schema.String
 * }) {}
 *
 * const program = Effect.gen(function*() {
 *   const handle = yield* Greet.send({ name: "Ada" })
 *   return yield* handle.await // "Hello, Ada"
 * })
 *
 * const Workers = Greet.toLayer(({ name }) => Effect.succeed(`Hello, ${name}`)).pipe(
 *   Layer.provideMerge(Worker.layer()),
 *   Layer.provideMerge(PostgresBroker.layerConfig)
 * )
 * ```
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type Broker, BrokerError, type IdTaken, Misconfigured } from "./Broker.ts"
import type { CurrentTask } from "./task/CurrentTask.ts"
import { type AnyPayload, define, type Options, type PayloadSchema } from "./task/definition.ts"
import type { AwaitError, PayloadError } from "./task/errors.ts"
import { Handlers } from "./task/Handlers.ts"
import { type Awaited, awaitOutcome, awaitOutcomeFor } from "./task/outcome.ts"
import type { Retry } from "./task/retrying.ts"
import { batchHandlerOf, type BatchTask, handlerOf } from "./task/running.ts"
import { newTask, type SendManyOptions, sendOne, type SendOptions, sendStream } from "./task/sending.ts"

export type { Upgrade } from "./task/codec.ts"
export { CurrentTask, defaultQueue, fail, layerCurrentTask, snooze, snoozed } from "./task/CurrentTask.ts"
export type { AnyPayload, Options, PayloadSchema } from "./task/definition.ts"
export {
  type AwaitError,
  DecodeError,
  PayloadError,
  ResultNotKept,
  TaskCancelled,
  TaskDefect,
  TaskExpired,
  TaskLost,
  TaskTimedOut,
  WaitTimedOut
} from "./task/errors.ts"
export { type Handler, Handlers, type Starting } from "./task/Handlers.ts"
export { makeId } from "./task/ids.ts"
export { type Retry, retryTimes } from "./task/retrying.ts"
export type { BatchTask } from "./task/running.ts"
export { type SendManyOptions, type SendOptions } from "./task/sending.ts"

const TypeId = "~effect-horsies/Task"

/** A task that was sent. */
export interface Handle<A, E, R> {
  /** The id of the task that is stored: for a duplicate, of the one that was stored before. */
  readonly id: string
  /** Whether nothing was stored because it had been sent before: with the same id, or the same idempotency key. */
  readonly duplicate: boolean
  /** Waits for the outcome: the success, the definition's own error, or an `AwaitError`. */
  readonly await: Effect.Effect<A, E | AwaitError, Broker | R>
  /** The same, but fails with `WaitTimedOut` when the task has not ended within this time. The task goes on. */
  readonly awaitFor: (duration: Duration.Input) => Effect.Effect<A, E | AwaitError, Broker | R>
}

/** Only who gives an id can find it taken. */
export type IdTakenBy<O extends SendOptions> = "id" extends keyof O ? O["id"] extends undefined ? never : IdTaken
  : never

/** A batch of tasks, as its handler gets it. */
export type Batch<A> = readonly [BatchTask<A>, ...ReadonlyArray<BatchTask<A>>]

/** A task definition. */
export interface Task<
  Name extends string,
  Payload extends Schema.Top,
  Success extends Schema.Top,
  Error extends Schema.Top
> {
  new(_: never): {}

  readonly [TypeId]: typeof TypeId
  /** The name under which tasks are stored. */
  readonly _tag: Name
  readonly queue: string
  /** The version of the payload's encoding. */
  readonly version: number
  readonly retry: Retry<Error["Type"]> | undefined
  readonly payloadSchema: Payload
  readonly successSchema: Success
  readonly errorSchema: Error

  /**
   * Stores a task and succeeds once it is durable; inside `withTransaction` of the broker's own `SqlClient` it becomes
   * part of that transaction. Fails with `PayloadError` before anything is sent and, where an `id` is given, with `IdTaken`
   * when another task has it.
   *
   * When the broker becomes unavailable during a send without `id`, it is tried once more, under the same id: no such
   * send stores two tasks. When that fails too, the task may have been stored or not; give an `id` to repeat it further.
   */
  readonly send: <O extends SendOptions = {}>(
    payload: Payload["~type.make.in"],
    options?: O
  ) => Effect.Effect<
    Handle<Success["Type"], Error["Type"], Success["DecodingServices"] | Error["DecodingServices"]>,
    PayloadError | BrokerError | IdTakenBy<O>,
    Broker | Payload["EncodingServices"]
  >

  /**
   * Sends any number of tasks, up to a thousand at a time, in bounded memory. Succeeds with how many were sent,
   * duplicates included. When it fails, the batches before the failing one stay sent; inside a transaction, none does.
   */
  readonly sendMany: <E = never, R = never>(
    payloads: Iterable<Payload["~type.make.in"]> | Stream.Stream<Payload["~type.make.in"], E, R>,
    options?: SendManyOptions
  ) => Effect.Effect<number, PayloadError | BrokerError | E, Broker | Payload["EncodingServices"] | R>

  /** Waits for the outcome of a task that was sent earlier, by its id. */
  readonly await: (id: string) => Awaited<Success, Error>

  /** The same, but fails with `WaitTimedOut` when the task has not ended within this time. The task goes on. */
  readonly awaitFor: (id: string, duration: Duration.Input) => Awaited<Success, Error>

  /**
   * The handler of this definition, as a layer: it registers with the worker and leaves it when the layer closes.
   *
   * With `transaction: true` each attempt runs inside one database transaction together with its completion: what the
   * handler does through the broker's own `SqlClient` happens exactly once, and not at all when the attempt fails. Where
   * the broker has no transactions, building the layer fails with a `BrokerError`.
   *
   * @example
   * ```ts
   * class Transfer extends Task.make("Transfer", { payload: { from: Schema.String, to: Schema.String } }) {}
   *
   * const TransferLive = Transfer.toLayer(
   *   Effect.fn(function*({ from, to }) {
   *     const sql = yield* SqlClient.SqlClient
   *     yield* sql`update accounts set balance = balance - 1 where id = ${from}`
   *     yield* sql`update accounts set balance = balance + 1 where id = ${to}`
   *   }, Effect.orDie),
   *   { transaction: true }
   * )
   * ```
   */
  readonly toLayer: {
    <R>(
      handler: (payload: Payload["Type"]) => Effect.Effect<Success["Type"], Error["Type"], R>,
      options?: { readonly transaction?: false | undefined }
    ): Layer.Layer<never, never, Handlers | Exclude<R, CurrentTask | Scope.Scope> | Codecs<Payload, Success, Error>>
    <R>(
      handler: (payload: Payload["Type"]) => Effect.Effect<Success["Type"], Error["Type"], R>,
      options: { readonly transaction?: boolean | undefined }
    ): Layer.Layer<
      never,
      BrokerError,
      Handlers | Exclude<R, CurrentTask | Scope.Scope> | Codecs<Payload, Success, Error>
    >
  }

  /**
   * A handler of whole batches, as a layer: it gets up to `size` tasks that are ready at once, and gives one exit for
   * each, in their order. A lone task does not wait for company. Each task of a batch takes one of the queue's slots, so
   * a batch has no more tasks than the queue's concurrency.
   *
   * Too few or too many exits, a defect, or an interruption of its own are a defect of each task of the batch. When one
   * of them is cancelled or takes too long, the handler is interrupted: the others run again, without counting an
   * attempt. A payload that does not decode ends its task without reaching the handler.
   *
   * @example
   * ```ts
   * class Index extends Task.make("Index", { payload: { document: Schema.String } }) {}
   *
   * const IndexLive = Index.toBatchLayer(
   *   (batch) => Effect.forEach(batch, ({ payload }) => Effect.exit(addToIndex(payload.document))),
   *   { size: 100 }
   * )
   * ```
   */
  readonly toBatchLayer: <R>(
    handler: (
      batch: Batch<Payload["Type"]>
    ) => Effect.Effect<ReadonlyArray<Exit.Exit<Success["Type"], Error["Type"]>>, never, R>,
    options: { readonly size: number }
  ) => Layer.Layer<never, never, Handlers | Exclude<R, Scope.Scope> | Codecs<Payload, Success, Error>>
}

/** What a worker needs to read the payloads of a definition, and to write its results. */
export type Codecs<Payload extends Schema.Top, Success extends Schema.Top, Error extends Schema.Top> =
  | Payload["DecodingServices"]
  | Success["EncodingServices"]
  | Error["EncodingServices"]

/** What the handlers of a definition take: `Task.Payload<typeof ResizeImage>`. */
export type Payload<T extends { readonly payloadSchema: Schema.Top }> = T["payloadSchema"]["Type"]

/** What the handlers of a definition succeed with. */
export type Success<T extends { readonly successSchema: Schema.Top }> = T["successSchema"]["Type"]

/** What the handlers of a definition fail with. */
export type Error<T extends { readonly errorSchema: Schema.Top }> = T["errorSchema"]["Type"]

/**
 * Defines a task. Every option has a default; a bad one throws.
 *
 * @example
 * ```ts
 * import { Task } from "effect-horsies"
 * import { Schedule, Schema } from "effect"
 *
 * class ImageError extends Schema.TaggedError<ImageError>()("ImageError", { transient: Schema.Boolean }) {}
 *
 * class ResizeImage extends Task.make("ResizeImage", {
 *   payload: { key: Schema.String, width: Schema.Int },
 *   success: Schema.Struct({ url: Schema.String }),
 *   error: ImageError,
 *   queue: "images",
 *   idempotencyKey: ({ key, width }) => `${key}@${width}`,
 *   retry: { times: 5, schedule: Schedule.exponential("1 second"), while: (error) => error.transient },
 *   timeout: "30 seconds"
 * }) {}
 * ```
 */
export const make = <
  const Name extends string,
  Payload extends AnyPayload = Schema.Void,
  Success extends Schema.Top = Schema.Void,
  Error extends Schema.Top = Schema.Never
>(
  name: Name,
  options: Options<Payload, Success, Error> = {}
): Task<Name, PayloadSchema<Payload>, Success, Error> => {
  const payload: AnyPayload = options.payload ?? Schema.Void
  const payloadSchema = (Schema.isSchema(payload)
    ? payload
    : Schema.Struct(payload as Schema.Struct.Fields)) as PayloadSchema<Payload>
  const successSchema = (options.success ?? Schema.Void) as Success
  const errorSchema = (options.error ?? Schema.Never) as Error
  const definition = define(name, payloadSchema, successSchema, errorSchema, options)

  function TaskDefinition() {}
  return Object.assign(TaskDefinition, {
    [TypeId]: TypeId,
    _tag: name,
    queue: definition.queue,
    version: definition.version,
    retry: definition.retry,
    payloadSchema,
    successSchema,
    errorSchema,
    send: Effect.fnUntraced(function*(payload: PayloadSchema<Payload>["~type.make.in"], sendOptions?: SendOptions) {
      const { duplicate, id } = yield* sendOne(yield* newTask(definition, payload, sendOptions))
      return {
        id,
        duplicate,
        await: awaitOutcome(definition, id),
        awaitFor: (duration: Duration.Input) => awaitOutcomeFor(definition, id, duration)
      }
    }),
    sendMany: <E, R>(
      payloads:
        | Iterable<PayloadSchema<Payload>["~type.make.in"]>
        | Stream.Stream<PayloadSchema<Payload>["~type.make.in"], E, R>,
      sendOptions?: SendManyOptions
    ) =>
      sendStream(
        Stream.mapEffect(
          Stream.isStream(payloads) ? payloads : Stream.fromIterable(payloads),
          (payload) => newTask(definition, payload, sendOptions)
        )
      ),
    await: (id: string) => awaitOutcome(definition, id),
    awaitFor: (id: string, duration: Duration.Input) => awaitOutcomeFor(definition, id, duration),
    toLayer: <R>(
      handler: (payload: PayloadSchema<Payload>["Type"]) => Effect.Effect<Success["Type"], Error["Type"], R>,
      { transaction = false }: { readonly transaction?: boolean | undefined } = {}
    ) =>
      Layer.effectDiscard(Effect.gen(function*() {
        const handlers = yield* Handlers
        if (transaction && !handlers.transactions) return yield* noTransactions(name)
        yield* handlers.register(handlerOf(definition, handler, yield* Effect.context<R>(), transaction))
      })),
    toBatchLayer: <R>(
      handler: (
        batch: Batch<PayloadSchema<Payload>["Type"]>
      ) => Effect.Effect<ReadonlyArray<Exit.Exit<Success["Type"], Error["Type"]>>, never, R>,
      { size }: { readonly size: number }
    ) => {
      if (!Number.isInteger(size) || size < 1) {
        throw new globalThis.Error(`${name}.toBatchLayer: size is ${size}; write a whole number of at least 1`)
      }
      return Layer.effectDiscard(Effect.gen(function*() {
        const handlers = yield* Handlers
        yield* handlers.register(batchHandlerOf(definition, handler, yield* Effect.context<R>(), size))
      }))
    }
  }) as unknown as Task<Name, PayloadSchema<Payload>, Success, Error>
}

const noTransactions = (name: string) =>
  new BrokerError({
    reason: new Misconfigured({
      field: "transaction",
      code: "TRANSACTIONS_UNSUPPORTED",
      message: `the handler of ${name} wants a transaction, and this broker has none; leave out \`transaction\``
    })
  })
