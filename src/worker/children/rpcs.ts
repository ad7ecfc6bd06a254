/** What a worker asks of a child process. */
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import * as Schema from "effect/Schema"
import { FailureKind, Interruption } from "../../Broker.ts"

const Failure = Schema.Struct({ kind: FailureKind, value: Schema.String })

const ClaimedTask = Schema.Struct({
  id: Schema.String,
  fence: Schema.Number,
  name: Schema.String,
  queue: Schema.String,
  payload: Schema.String,
  priority: Schema.Number,
  attempt: Schema.Number,
  losses: Schema.Number,
  waited: Schema.Number,
  version: Schema.Number,
  concurrencyKey: Schema.UndefinedOr(Schema.String),
  timeout: Schema.UndefinedOr(Schema.Number),
  expiresIn: Schema.UndefinedOr(Schema.Number)
})

const AttemptEnd = Schema.Union([
  Schema.TaggedStruct("Completed", { value: Schema.String }),
  Schema.TaggedStruct("Failed", { failure: Failure }),
  Schema.TaggedStruct("Retry", { failure: Failure, delay: Schema.Number }),
  Schema.TaggedStruct("Snoozed", { delay: Schema.Number }),
  Schema.TaggedStruct("Interrupted", { why: Interruption }),
  Schema.TaggedStruct("Lost", {}),
  Schema.TaggedStruct("Cancelled", {}),
  Schema.TaggedStruct("Expired", {})
])

/** What became of a run in a child process. */
export const RunEnd = Schema.Union([
  Schema.TaggedStruct("Ended", { end: AttemptEnd }),
  /** Its transaction has recorded it, or nothing is to be recorded. */
  Schema.TaggedStruct("Settled", {}),
  /** It was interrupted because the worker wanted it. */
  Schema.TaggedStruct("Stopped", {})
])

/** What became of a run in a child process. */
export type RunEnd = typeof RunEnd.Type

/** A handler of the module, as its worker has to know it. */
export const Description = Schema.Struct({
  definition: Schema.Struct({
    name: Schema.String,
    version: Schema.Number,
    queue: Schema.String,
    priority: Schema.Number,
    timeout: Schema.UndefinedOr(Schema.Number),
    maxLosses: Schema.Number,
    retention: Schema.UndefinedOr(Schema.Number),
    idempotencyWindow: Schema.Number
  }),
  /** The most tasks of one call; none for a handler of single tasks. */
  batch: Schema.UndefinedOr(Schema.Number)
})

/** A handler of the module, as its worker has to know it. */
export type Description = typeof Description.Type

/** The module cannot be imported, or its layers cannot be built. */
export class LoadFailed extends Schema.TaggedError<LoadFailed>()("LoadFailed", { message: Schema.String }) {}

export class Rpcs extends RpcGroup.make(
  /** Imports the module and builds its layers. Settings as `settings.ts` writes them; none where there is no database. */
  Rpc.make("Load", {
    payload: { module: Schema.String, settings: Schema.UndefinedOr(Schema.String) },
    success: Schema.Array(Description),
    error: LoadFailed
  }),
  /** Runs tasks of one name, in one call when their handler takes batches. Gives an end for each, in their order. */
  Rpc.make("Run", {
    payload: {
      /** A number of the worker's own, to interrupt it by. */
      run: Schema.Number,
      worker: Schema.String,
      tasks: Schema.Array(Schema.Struct({ task: ClaimedTask, waited: Schema.Number }))
    },
    success: Schema.Array(RunEnd)
  }),
  /** Interrupts a run; how it ends is the answer to `Run`. */
  Rpc.make("Interrupt", { payload: { run: Schema.Number } }),
  /** How an attempt ends that failed without a word of its handler. */
  Rpc.make("Failed", { payload: { task: ClaimedTask, failure: Failure }, success: AttemptEnd }),
  /**
   * Proves that the event loop turns, and that the worker has its lease: until this time of `machineTime`, and so many
   * milliseconds more that it takes to hear of it. `memory`: the resident set, in bytes.
   */
  Rpc.make("Ping", {
    payload: { until: Schema.Number, grace: Schema.Number },
    success: Schema.Struct({ memory: Schema.Number })
  }),
  /** Closes the layers of the module. */
  Rpc.make("Close")
) {}
