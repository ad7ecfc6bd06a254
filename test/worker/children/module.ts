/** Handlers that run in the child processes of the tests. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import { writeSync } from "node:fs"
import { Broker } from "../../../src/Broker.ts"
import * as Task from "../../../src/Task.ts"

export class Where extends Task.make("Where", { payload: { n: Schema.Int }, success: Schema.Int, queue: "where" }) {}

export class Refusal extends Schema.TaggedError<Refusal>()("Refusal", { why: Schema.String }) {}

/** Does what its payload says. */
export class Act extends Task.make("Act", {
  payload: {
    what: Schema.Literals([
      "fail",
      "die",
      "exit",
      "exitOnce",
      "spin",
      "spinOnce",
      "spinAloud",
      "never",
      "stubborn",
      "interruptItself",
      "snoozeOnce",
      "grow",
      "neverAloud"
    ])
  },
  success: Schema.String,
  error: Refusal,
  queue: "acts"
}) {}

export class Spin extends Task.make("Spin", {
  payload: {},
  timeout: "300 millis",
  retry: { times: 1, schedule: Schedule.spaced("5 millis") },
  queue: "spins"
}) {}

export class Bunch extends Task.make("Bunch", {
  payload: { n: Schema.Int },
  success: Schema.Struct({ pid: Schema.Int, size: Schema.Int }),
  queue: "bunches"
}) {}

/** Sends another task from inside a child. */
export class Chain extends Task.make("Chain", { payload: {}, success: Schema.String, queue: "chains" }) {}

const spin = Effect.sync(() => {
  while (true);
})

const WhereLive = Where.toLayer(({ n }) => Effect.as(Effect.sleep(n), process.pid))

const grown: Array<Buffer> = []

const ActLive = Act.toLayer(Effect.fnUntraced(function*({ what }) {
  const { attempt, fence, losses } = yield* Task.CurrentTask
  switch (what) {
    case "fail":
      return yield* new Refusal({ why: "no" })
    case "die":
      return yield* Effect.die(new Error("broken"))
    case "exit":
      return process.exit(7)
    case "exitOnce":
      return losses === 0 ? process.exit(7) : `alive after ${losses}`
    case "spin":
      return yield* spin
    case "spinOnce":
      return fence === 1 ? yield* spin : "spun"
    case "spinAloud":
      writeSync(1, "spinning\n")
      return yield* spin
    case "never":
      return yield* Effect.never
    case "neverAloud":
      writeSync(1, "begun\n")
      return yield* Effect.onInterrupt(Effect.never, () => Effect.sync(() => writeSync(1, "interrupted\n")))
    case "stubborn":
      return yield* Effect.uninterruptible(Effect.never)
    case "interruptItself":
      return yield* Effect.interrupt
    case "snoozeOnce":
      return fence === 1 ? yield* Task.snooze("1 millis") : `attempt ${attempt}`
    case "grow":
      grown.push(Buffer.alloc(400_000_000, 1))
      return String(process.pid)
  }
}))

const SpinLive = Spin.toLayer(() => spin)

const BunchLive = Bunch.toBatchLayer(
  (batch) => Effect.succeed(batch.map(() => Exit.succeed({ pid: process.pid, size: batch.length }))),
  { size: 10 }
)

const ChainLive = Chain.toLayer(() =>
  Broker.use((broker) => broker.queue("chains")).pipe(
    Effect.as("sent"),
    Effect.catch((error) => Effect.succeed(error.reason._tag === "Misconfigured" ? error.reason.code : error.message))
  )
)

export const handlers = Layer.mergeAll(WhereLive, ActLive, SpinLive, BunchLive, ChainLive)
