/** What the benchmark asks of the processes of a contestant. Times are milliseconds of `clock.ts`, `cpu` is processor time. */
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import * as Schema from "effect/Schema"

/** The contestant failed. */
export class Broken extends Schema.TaggedError<Broken>()("Broken", { message: Schema.String }) {}

export class Rpcs extends RpcGroup.make(
  /** Makes the tables in an empty database and connects. */
  Rpc.make("Prepare", { payload: { url: Schema.String }, error: Broken }),
  /** Sends the tasks from 0 on. */
  Rpc.make("Send", {
    payload: { tasks: Schema.Int },
    success: Schema.Struct({ startedAt: Schema.Number, endedAt: Schema.Number, cpu: Schema.Number }),
    error: Broken
  }),
  /** Starts the worker; succeeds when it is up. */
  Rpc.make("Start", {
    payload: { url: Schema.String, tasks: Schema.Int, profile: Schema.Boolean },
    success: Schema.Struct({ startedAt: Schema.Number }),
    error: Broken
  }),
  /** Succeeds when the handlers of all tasks have run. */
  Rpc.make("Ran", { success: Schema.Struct({ firstAt: Schema.Number, lastAt: Schema.Number }) }),
  /** Stops the worker or disconnects the sender, and tells what it has seen. */
  Rpc.make("Close", {
    success: Schema.Struct({
      /** Since `Start`. */
      cpu: Schema.Number,
      problem: Schema.UndefinedOr(Schema.String),
      /** A profile of the time from `Start` to here, as V8 writes it. */
      profile: Schema.UndefinedOr(Schema.String)
    }),
    error: Broken
  })
) {}
