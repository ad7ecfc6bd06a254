/** A module of tasks, as `horsies worker` is given one. */
import { Task } from "effect-horsies"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"

/** Runs until the gate is open. */
export class Wait extends Task.make("Wait", { payload: { n: Schema.Int }, success: Schema.Int, queue: "waits" }) {}

export class Pid extends Task.make("Pid", { payload: {}, success: Schema.Int }) {}

const WaitLive = Wait.toLayer(({ n }) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient
    yield* sql`insert into events (what, n) values ('begun', ${n})`
    yield* Effect.repeat(sql`select from gate`, {
      until: (rows) => rows.length > 0,
      schedule: Schedule.spaced("20 millis")
    }).pipe(Effect.onInterrupt(() => sql`insert into events (what, n) values ('interrupted', ${n})`.pipe(Effect.orDie)))
    return n
  }).pipe(Effect.orDie)
)

const PidLive = Pid.toLayer(() => Effect.as(Effect.log("telling the pid"), process.pid))

/** One on top of the other, so that they close one after the other. */
export const handlers = Layer.provideMerge(WaitLive, PidLive)
