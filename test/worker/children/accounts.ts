/** Handlers for child processes that use the database. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import * as Task from "../../../src/Task.ts"

export class Book extends Task.make("Book", {
  payload: { n: Schema.Int, how: Schema.Literals(["well", "badly", "slowly", "crashOnce"]) },
  success: Schema.Int,
  retry: { times: 1, schedule: Schedule.spaced("5 millis") },
  queue: "books"
}) {}

export class Receipt extends Task.make("Receipt", { payload: { n: Schema.Int } }) {}

/** Uses two connections at once for so many milliseconds. */
export class Query extends Task.make("Query", {
  payload: { millis: Schema.Int },
  success: Schema.Int,
  queue: "queries"
}) {}

/** Uses no connection. */
export class Plain extends Task.make("Plain", { payload: {}, success: Schema.Int, queue: "plain" }) {}

const BookLive = Book.toLayer(
  Effect.fnUntraced(function*({ how, n }) {
    const sql = yield* SqlClient
    const { attempt, losses } = yield* Task.CurrentTask
    yield* Effect.orDie(sql`insert into bookings values (${n})`)
    yield* Effect.orDie(Receipt.send({ n }))
    if (how === "badly") return yield* Effect.die("broken")
    if (how === "slowly" && attempt === 1) return yield* Effect.never
    if (how === "crashOnce" && losses === 0) process.exit(9)
    return n
  }),
  { transaction: true }
)

const QueryLive = Query.toLayer(Effect.fnUntraced(function*({ millis }) {
  const sql = yield* SqlClient
  const query = sql`select pg_sleep(${millis / 1000})`
  yield* Effect.all([query, query], { concurrency: 2 })
  return process.pid
}, Effect.orDie))

const PlainLive = Plain.toLayer(() => Effect.succeed(process.pid))

export const handlers = Layer.mergeAll(BookLive, QueryLive, PlainLive)
