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
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Predicate from "effect/Predicate"
import * as Pull from "effect/Pull"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import {
  type AttemptEnd,
  Broker,
  type BrokerError,
  type ClaimedTask,
  type Failure,
  highestPriority,
  lowestPriority,
  type NewTask,
  type Outcome,
  type TaskNotFound
} from "./Broker.ts"

const TypeId = "~effect-horsies/Task"

/** The queue of definitions that name none. */
export const defaultQueue = "default"

/** The payload does not fit the definition's schema, or an option of `send` is out of range. Nothing was sent. */
export class PayloadError extends Schema.TaggedError<PayloadError>()("PayloadError", {
  task: Schema.String,
  message: Schema.String
}) {}

/** The task ended FAILED: its handler died, on its last attempt. */
export class TaskDefect extends Schema.TaggedError<TaskDefect>()("TaskDefect", {
  id: Schema.String,
  defect: Schema.String
}) {
  override get message(): string {
    return `task ${this.id} failed with a defect: ${this.defect}`
  }
}

/** The task ended FAILED because too many workers were lost while they held it. */
export class TaskLost extends Schema.TaggedError<TaskLost>()("TaskLost", {
  id: Schema.String,
  message: Schema.String
}) {}

/** What was stored does not fit the definition's schema: the payload for its handler, or the result for who awaits it. */
export class DecodeError extends Schema.TaggedError<DecodeError>()("DecodeError", {
  id: Schema.String,
  message: Schema.String
}) {}

/** Why awaiting a task failed, apart from the definition's own error. */
export type AwaitError = TaskDefect | TaskLost | DecodeError | TaskNotFound | BrokerError

/** What a handler can know of its own run. */
export class CurrentTask extends Context.Service<CurrentTask, {
  readonly id: string
  readonly name: string
  readonly queue: string
  readonly priority: number
  /** Which attempt this is, from 1. */
  readonly attempt: number
  /** How many workers were lost while they held this task. */
  readonly losses: number
  /** Raised by every claim: pass it along with writes elsewhere, and refuse a lower one there. */
  readonly fence: number
  /** From the task's due time to the start of this run. */
  readonly waited: Duration.Duration
}>()("effect-horsies/Task/CurrentTask") {}

/**
 * A `CurrentTask` for the test of a handler alone; give what matters to it.
 *
 * @example
 * ```ts
 * handler({ name: "Ada" }).pipe(Effect.provide(Task.layerCurrentTask({ attempt: 3 })))
 * ```
 */
export const layerCurrentTask = (task: Partial<CurrentTask["Service"]> = {}): Layer.Layer<CurrentTask> =>
  Layer.succeed(CurrentTask, {
    id: "00000000-0000-7000-8000-000000000000",
    name: "Test",
    queue: defaultQueue,
    priority: lowestPriority,
    attempt: 1,
    losses: 0,
    fence: 1,
    waited: Duration.zero,
    ...task
  })

/** One registered handler, as a worker runs it. */
export interface Handler {
  readonly name: string
  readonly queue: string
  /** Decodes, runs, encodes. Interruption is the only way in which it does not succeed. */
  readonly run: (task: ClaimedTask, waited: number) => Effect.Effect<AttemptEnd>
  /** How an attempt ends whose handler was interrupted by nobody but itself. */
  readonly interruptedItself: (task: ClaimedTask) => Effect.Effect<AttemptEnd>
}

/** Where handlers register: a worker. `Worker.layer` provides it. */
export class Handlers extends Context.Service<Handlers, {
  /**
   * Adds a handler until the scope closes. Closing the scope stops claims for it and waits for, or interrupts, its runs
   * before it returns, so that what the handler uses can be closed after it.
   */
  readonly register: (handler: Handler) => Effect.Effect<void, never, Scope.Scope>
}>()("effect-horsies/Task/Handlers") {}

/** How failed attempts are repeated. */
export interface Retry<E> {
  /** The most attempts after the first. Without it, the schedule decides. */
  readonly times?: number | undefined
  /** The time between attempts, from the end of one to the start of the next. Default: 1 second, doubled each time, at most 1 hour, with jitter. */
  readonly schedule?: Schedule.Schedule<unknown> | undefined
  /** Whether a failure with the definition's own error is worth another attempt. Defects are always retried. */
  readonly while?: ((error: E) => boolean) | undefined
}

/** Options of one `send`. */
export interface SendOptions {
  /** From 1, the most urgent, to 100, the default. */
  readonly priority?: number | undefined
  /** Start it no earlier than this from now, by the broker's clock. */
  readonly delay?: Duration.Input | undefined
  /** Start it no earlier than this, by the broker's clock. Not together with `delay`. */
  readonly runAt?: DateTime.DateTime.Input | undefined
}

/** A task that was sent. */
export interface Handle<A, E, R> {
  readonly id: string
  /** Waits for the outcome: the success, the definition's own error, or an `AwaitError`. */
  readonly await: Effect.Effect<A, E | AwaitError, Broker | R>
}

/** A payload: a schema of any kind, or the fields of a struct. */
export type AnyPayload = Schema.Top | Schema.Struct.Fields

/** The schema of a payload. */
export type PayloadSchema<P extends AnyPayload> = P extends Schema.Top ? P
  : P extends Schema.Struct.Fields ? Schema.Struct<P>
  : never

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
  readonly payloadSchema: Payload
  readonly successSchema: Success
  readonly errorSchema: Error

  /**
   * Stores a task and succeeds once it is durable; inside `withTransaction` of the broker's own `SqlClient` it becomes
   * part of that transaction. Fails with `PayloadError` before anything is sent.
   */
  readonly send: (
    payload: Payload["~type.make.in"],
    options?: SendOptions
  ) => Effect.Effect<
    Handle<Success["Type"], Error["Type"], Success["DecodingServices"] | Error["DecodingServices"]>,
    PayloadError | BrokerError,
    Broker | Payload["EncodingServices"]
  >

  /**
   * Sends any number of tasks, a thousand at a time, in bounded memory. Succeeds with how many were sent. When it fails,
   * the batches before the failing one stay sent; inside a transaction, none does.
   */
  readonly sendMany: <E = never, R = never>(
    payloads: Iterable<Payload["~type.make.in"]> | Stream.Stream<Payload["~type.make.in"], E, R>,
    options?: SendOptions
  ) => Effect.Effect<number, PayloadError | BrokerError | E, Broker | Payload["EncodingServices"] | R>

  /** Waits for the outcome of a task that was sent earlier, by its id. */
  readonly await: (
    id: string
  ) => Effect.Effect<
    Success["Type"],
    Error["Type"] | AwaitError,
    Broker | Success["DecodingServices"] | Error["DecodingServices"]
  >

  /** The handler of this definition, as a layer: it registers with the worker and leaves it when the layer closes. */
  readonly toLayer: <R>(
    handler: (payload: Payload["Type"]) => Effect.Effect<Success["Type"], Error["Type"], R>
  ) => Layer.Layer<
    never,
    never,
    | Handlers
    | Exclude<R, CurrentTask | Scope.Scope>
    | Payload["DecodingServices"]
    | Success["EncodingServices"]
    | Error["EncodingServices"]
  >
}

/** What the handlers of a definition take: `Task.Payload<typeof ResizeImage>`. */
export type Payload<T extends { readonly payloadSchema: Schema.Top }> = T["payloadSchema"]["Type"]

/** What the handlers of a definition succeed with. */
export type Success<T extends { readonly successSchema: Schema.Top }> = T["successSchema"]["Type"]

/** What the handlers of a definition fail with. */
export type Error<T extends { readonly errorSchema: Schema.Top }> = T["errorSchema"]["Type"]

const defaultSchedule = Schedule.min([Schedule.exponential("1 second"), Schedule.spaced("1 hour")]).pipe(
  Schedule.jittered
)

/** The longest JSON of a payload or a result: what is larger than a message of the driver could never be read again. */
const mostCharacters = 4_000_000

/** Tasks per statement of `sendMany`. */
const batchSize = 1000

/**
 * Defines a task.
 *
 * `payload` is a schema or the fields of a struct; it defaults to nothing, as does `success`. `error` defaults to no typed
 * error, `queue` to `"default"`, `priority` to 100. Without `retry` a failed attempt ends the task. `onWorkerLost: "fail"` ends it FAILED
 * when its worker is lost; by default it runs again, up to three losses.
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
 *   retry: { times: 5, schedule: Schedule.exponential("1 second"), while: (error) => error.transient }
 * }) {}
 * ```
 */
export const make = <
  const Name extends string,
  Payload extends AnyPayload = Schema.Void,
  Success extends Schema.Top = Schema.Void,
  Error extends Schema.Top = Schema.Never
>(name: Name, options: {
  readonly payload?: Payload | undefined
  readonly success?: Success | undefined
  readonly error?: Error | undefined
  readonly queue?: string | undefined
  readonly priority?: number | undefined
  readonly retry?: Retry<Error["Type"]> | undefined
  readonly onWorkerLost?: "retry" | "fail" | undefined
}): Task<Name, PayloadSchema<Payload>, Success, Error> => {
  const payload: AnyPayload = options.payload ?? Schema.Void
  const payloadSchema = (Schema.isSchema(payload)
    ? payload
    : Schema.Struct(payload as Schema.Struct.Fields)) as PayloadSchema<Payload>
  const successSchema = (options.success ?? Schema.Void) as Success
  const errorSchema = (options.error ?? Schema.Never) as Error
  const queue = options.queue ?? defaultQueue
  checkName("task name", name)
  checkName("queue", queue)
  if (options.priority !== undefined) checkPriority(options.priority)

  const definition: Definition<PayloadSchema<Payload>, Success, Error> = {
    name,
    queue,
    priority: options.priority ?? lowestPriority,
    maxLosses: options.onWorkerLost === "fail" ? 1 : 3,
    retry: options.retry,
    makePayload: (input) =>
      Effect.mapError(payloadSchema.makeEffect(input as never), (issue) => new Schema.SchemaError(issue)),
    payload: jsonCodec(payloadSchema),
    success: jsonCodec(successSchema),
    error: jsonCodec(errorSchema)
  }
  const awaitOutcome = (id: string) =>
    Effect.flatMap(Broker.use((broker) => broker.outcome(id)), (outcome) => decodeOutcome(definition, id, outcome))

  function TaskDefinition() {}
  return Object.assign(TaskDefinition, {
    [TypeId]: TypeId,
    _tag: name,
    queue,
    payloadSchema,
    successSchema,
    errorSchema,
    send: Effect.fnUntraced(function*(payload: PayloadSchema<Payload>["~type.make.in"], sendOptions?: SendOptions) {
      const task = yield* newTask(definition, payload, sendOptions)
      yield* Broker.use((broker) => broker.send([task]))
      return { id: task.id, await: awaitOutcome(task.id) }
    }),
    sendMany: <E, R>(
      payloads:
        | Iterable<PayloadSchema<Payload>["~type.make.in"]>
        | Stream.Stream<PayloadSchema<Payload>["~type.make.in"], E, R>,
      sendOptions?: SendOptions
    ) =>
      (Stream.isStream(payloads) ? payloads : Stream.fromIterable(payloads)).pipe(
        Stream.mapEffect((payload) => newTask(definition, payload, sendOptions)),
        Stream.grouped(batchSize),
        Stream.mapEffect((tasks) => Effect.as(Broker.use((broker) => broker.send(tasks)), tasks.length)),
        Stream.runFold(() => 0, (sent, count) => sent + count)
      ),
    await: awaitOutcome,
    toLayer: <R>(
      handler: (payload: PayloadSchema<Payload>["Type"]) => Effect.Effect<Success["Type"], Error["Type"], R>
    ) =>
      Layer.effectDiscard(Effect.gen(function*() {
        const context = yield* Effect.context<R>()
        const handlers = yield* Handlers
        yield* handlers.register({ name, queue, ...runWith(definition, handler, context) })
      }))
  }) as unknown as Task<Name, PayloadSchema<Payload>, Success, Error>
}

/** Somebody wrote a text that is no JSON where one was expected. */
class JsonError extends Schema.TaggedError<JsonError>()("JsonError", { message: Schema.String }) {}

const parseJson = (text: string) =>
  Effect.try({
    try: (): unknown => JSON.parse(text),
    catch: (error) => new JsonError({ message: Predicate.isError(error) ? error.message : String(error) })
  })

interface JsonCodec<S extends Schema.Top> {
  readonly encode: (value: S["Type"]) => Effect.Effect<string, Schema.SchemaError, S["EncodingServices"]>
  readonly decode: (json: string) => Effect.Effect<S["Type"], Schema.SchemaError | JsonError, S["DecodingServices"]>
}

interface Definition<Payload extends Schema.Top, Success extends Schema.Top, Error extends Schema.Top> {
  readonly name: string
  readonly queue: string
  readonly priority: number
  readonly maxLosses: number
  readonly retry: Retry<Error["Type"]> | undefined
  readonly makePayload: (input: Payload["~type.make.in"]) => Effect.Effect<Payload["Type"], Schema.SchemaError>
  readonly payload: JsonCodec<Payload>
  readonly success: JsonCodec<Success>
  readonly error: JsonCodec<Error>
}

const jsonCodec = <S extends Schema.Top>(schema: S): JsonCodec<S> => {
  const codec = Schema.toCodecJson(schema)
  const encode = Schema.encodeEffect(codec)
  const decode = Schema.decodeUnknownEffect(codec)
  return {
    encode: (value) => Effect.map(encode(value), (json) => JSON.stringify(json) ?? "null"),
    decode: (json) => Effect.flatMap(parseJson(json), decode)
  }
}

/** Definitions are constants of a program, so a bad one is a defect of it. */
const checkName = (what: string, name: string) => {
  if (name === "" || name.includes("\u0000") || name.length > 255) {
    throw new Error(`Task.make: a ${what} has 1 to 255 characters and no NUL (found ${JSON.stringify(name)})`)
  }
}

const isPriority = (priority: number) =>
  Number.isInteger(priority) && priority >= highestPriority && priority <= lowestPriority

const checkPriority = (priority: number) => {
  if (!isPriority(priority)) {
    throw new Error(
      `Task.make: a priority is a whole number from ${highestPriority} to ${lowestPriority} (found ${priority})`
    )
  }
}

const newTask = Effect.fnUntraced(
  function*<Payload extends Schema.Top, Success extends Schema.Top, Error extends Schema.Top>(
    definition: Definition<Payload, Success, Error>,
    input: Payload["~type.make.in"],
    options: SendOptions = {}
  ) {
    const refuse = (message: string) => new PayloadError({ task: definition.name, message })
    const payload = yield* definition.makePayload(input).pipe(
      Effect.flatMap(definition.payload.encode),
      Effect.mapError((error) => refuse(error.message))
    )
    const priority = options.priority ?? definition.priority
    if (!isPriority(priority)) {
      return yield* refuse(`priority is ${priority}; write a whole number from ${highestPriority} to ${lowestPriority}`)
    }
    const due = dueOf(options)
    if (typeof due === "string") {
      return yield* refuse(due)
    }
    const task: NewTask = {
      id: SecureRandom.uuidV7Unsafe(),
      name: definition.name,
      queue: definition.queue,
      payload,
      priority,
      due,
      maxLosses: definition.maxLosses
    }
    return task
  }
)

/** The due times that every broker can store: from the epoch to the year 9999. */
const latestDue = Date.UTC(10_000, 0, 1) - 1

const dueOf = (options: SendOptions): NewTask["due"] | string => {
  if (options.runAt !== undefined) {
    if (options.delay !== undefined) return "give delay or runAt, not both"
    const at = DateTime.make(options.runAt)
    const millis = at._tag === "Some" ? DateTime.toEpochMillis(at.value) : Number.NaN
    return millis >= 0 && millis <= latestDue ? { at: millis } : "runAt is not a time between 1970 and 9999"
  }
  const delay = Duration.fromInput(options.delay ?? 0)
  const millis = delay._tag === "Some" ? Duration.toMillis(delay.value) : Number.NaN
  return millis >= 0 && millis <= latestDue / 4 ? { after: millis } : "delay is not a duration between 0 and 2000 years"
}

const decodeOutcome = <Payload extends Schema.Top, Success extends Schema.Top, Error extends Schema.Top>(
  definition: Definition<Payload, Success, Error>,
  id: string,
  outcome: Outcome
): Effect.Effect<
  Success["Type"],
  Error["Type"] | AwaitError,
  Success["DecodingServices"] | Error["DecodingServices"]
> => {
  const undecodable = (error: Schema.SchemaError | JsonError) =>
    new DecodeError({ id, message: `the result of task ${id} does not decode: ${error.message}` })
  if (outcome._tag === "Completed") {
    return Effect.mapError(definition.success.decode(outcome.value), undecodable)
  }
  const { kind, value } = outcome.failure
  switch (kind) {
    case "Error":
      return definition.error.decode(value).pipe(Effect.mapError(undecodable), Effect.flatMap(Effect.fail))
    case "Defect":
      return Effect.fail(new TaskDefect({ id, defect: describe(value) }))
    case "Payload":
      return Effect.fail(
        new DecodeError({ id, message: `the payload of task ${id} does not decode: ${describe(value)}` })
      )
    case "Lost":
      return Effect.fail(new TaskLost({ id, message: `task ${id}: ${describe(value)}` }))
  }
}

const describe = (json: string): string => {
  const value: unknown = JSON.parse(json)
  return typeof value === "string" ? value : json
}

const runWith = <Payload extends Schema.Top, Success extends Schema.Top, Error extends Schema.Top, R>(
  definition: Definition<Payload, Success, Error>,
  handler: (payload: Payload["Type"]) => Effect.Effect<Success["Type"], Error["Type"], R>,
  context: Context.Context<R>
): Pick<Handler, "run" | "interruptedItself"> => {
  const failed = (task: ClaimedTask, failure: Failure, retried: boolean): Effect.Effect<AttemptEnd> =>
    Effect.map(
      retried ? retryDelay(definition.retry, task.attempt) : Effect.undefined,
      (delay) => delay === undefined ? { _tag: "Failed", failure } : { _tag: "Retry", failure, delay }
    )
  const died = (task: ClaimedTask, defect: unknown, retried = true) =>
    failed(task, { kind: "Defect", value: JSON.stringify(describeDefect(defect)) }, retried)

  const failure = (task: ClaimedTask, cause: Cause.Cause<Error["Type"]>) => {
    const failReason = cause.reasons.find(Cause.isFailReason)
    if (failReason !== undefined) {
      return definition.error.encode(failReason.error).pipe(
        Effect.flatMap((value) =>
          failed(task, { kind: "Error", value }, definition.retry?.while?.(failReason.error) ?? true)
        ),
        Effect.catch((error) => died(task, `the error does not encode: ${error.message}`, false))
      )
    }
    return Cause.hasInterruptsOnly(cause) ? Effect.interrupt : died(task, Cause.squash(cause))
  }

  const run: Handler["run"] = (task, waited) =>
    Effect.matchEffect(definition.payload.decode(task.payload), {
      onFailure: (error) => failed(task, { kind: "Payload", value: JSON.stringify(error.message) }, false),
      onSuccess: (payload) =>
        Effect.flatMap(
          Effect.exit(Effect.scoped(Effect.suspend(() => handler(payload)))),
          (exit) =>
            Exit.isFailure(exit) ?
              failure(task, exit.cause) :
              Effect.matchEffect(definition.success.encode(exit.value), {
                onFailure: (error) => died(task, `the result does not encode: ${error.message}`, false),
                onSuccess: (value) =>
                  value.length > mostCharacters
                    ? died(
                      task,
                      `the result has ${value.length} characters of JSON; at most ${mostCharacters} are kept`,
                      false
                    )
                    : Effect.succeed<AttemptEnd>({ _tag: "Completed", value })
              })
        )
    }).pipe(
      Effect.catchCause((cause) =>
        // A schema or a retry predicate that throws.
        Cause.hasInterruptsOnly(cause)
          ? Effect.failCause(cause as Cause.Cause<never>)
          : died(task, Cause.squash(cause), false)
      ),
      Effect.provideContext(Context.add(context, CurrentTask, {
        id: task.id,
        name: task.name,
        queue: task.queue,
        priority: task.priority,
        attempt: task.attempt,
        losses: task.losses,
        fence: task.fence,
        waited: Duration.millis(waited)
      }))
    ) as Effect.Effect<AttemptEnd>
  return { run, interruptedItself: (task) => died(task, "the handler interrupted itself") }
}

const describeDefect = (defect: unknown): string =>
  Predicate.isError(defect)
    ? defect.stack ?? defect.message
    : typeof defect === "string"
    ? defect
    : Cause.pretty(Cause.die(defect))

/**
 * The delay before the attempt that follows `attempt`, or nothing when there is none. The schedule is stepped from its
 * beginning, as often as attempts have ended, so that it goes on in whichever process runs the task next. Its steps are
 * placed so that the last one is now: a schedule that looks at the time of day sees the right one.
 */
const retryDelay = Effect.fnUntraced(function*<E>(retry: Retry<E> | undefined, attempt: number) {
  if (retry === undefined || (retry.times !== undefined && attempt > retry.times)) return undefined
  const schedule = retry.schedule ?? defaultSchedule
  const now = yield* Clock.currentTimeMillis
  const before = yield* delays(schedule, attempt - 1, now)
  if (before.length < attempt - 1) return undefined
  const all = yield* delays(schedule, attempt, now - before.reduce((sum, delay) => sum + delay, 0))
  return all[attempt - 1]
})

/** The first delays of a schedule, in milliseconds; fewer when it ends before. */
const delays = Effect.fnUntraced(function*(schedule: Schedule.Schedule<unknown>, count: number, from: number) {
  const step = yield* Schedule.toStep(schedule)
  const found: Array<number> = []
  let now = from
  for (let i = 0; i < count; i++) {
    const stepped = yield* Pull.catchDone(step(now, undefined), () => Effect.undefined)
    if (stepped === undefined) break
    const delay = Duration.toMillis(stepped[1])
    found.push(delay)
    now += delay
  }
  return found
})
