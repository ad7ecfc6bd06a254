/** What awaiting costs. */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as References from "effect/References"
import * as PooledSql from "../../src/connection/PooledSql.ts"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import { makeId } from "../../src/Task.ts"
import { TestDatabase } from "../support/TestDatabase.ts"
import { start } from "../support/worker.ts"
import { figures } from "./figures.ts"
import { Timed } from "./tasks.ts"

/** Every statement of the brokers below, as the echo of their pools tells it. */
const statements: Array<string> = []
const logger = Logger.make(({ fiber, message }) => {
  const { sql } = fiber.getRef(References.CurrentLogAnnotations)
  if (String(message).includes("statement")) statements.push(String(sql))
})
const echo = Layer.merge(Logger.layer([logger]), Layer.succeed(References.MinimumLogLevel, "All"))

const config = Layer.unwrap(
  Effect.map(TestDatabase, ({ url }) => PostgresConfig.layer({ databaseUrl: url, echo: true }))
)
const listening = PostgresBroker.layer.pipe(Layer.provide(config), Layer.provideMerge(TestDatabase.layer))
const silent = PostgresBroker.layerSqlClient().pipe(
  Layer.provideMerge(PooledSql.layer),
  Layer.provide(config),
  Layer.provideMerge(TestDatabase.layer)
)

/** The broker of another process; its statements are not counted. */
const other = Layer.build(
  Layer.fresh(Layer.provide(
    PostgresBroker.layer,
    Layer.unwrap(Effect.map(TestDatabase, ({ url }) => PostgresConfig.layer({ databaseUrl: url })))
  ))
)

/** How many statements run meanwhile. */
const counted = Effect.fnUntraced(function*<A, E, R>(self: Effect.Effect<A, E, R>) {
  const before = statements.length
  const value = yield* self
  return { value, count: statements.length - before }
})

const seconds = 6
const handles = 1000

const brokers = {
  // A look at everything is two statements: it registers who waits, and reads.
  "with a session": { broker: listening, most: (seconds / 4 + 1) * 2 },
  "without a session": { broker: silent, most: (seconds / 0.4 + 1) * 2 }
}

for (const [name, { broker, most }] of Object.entries(brokers)) {
  layer(Layer.provide(broker, echo), { excludeTestServices: true, timeout: "30 seconds" })(
    `awaiting ${handles} handles at once ${name}`,
    (it) => {
      it.effect("takes a few statements for all of them together", () =>
        Effect.gen(function*() {
          const tasks = yield* Effect.forEach(Array.from({ length: handles }), () => makeId)
          yield* Effect.forEach(tasks, (id) => Timed.send({ at: 0 }, { id }), { concurrency: "unbounded" })
          const beginning = yield* counted(Effect.gen(function*() {
            const waiting = yield* Effect.forkChild(
              Effect.forEach(tasks, (id) => Timed.await(id), { concurrency: "unbounded", discard: true }),
              { startImmediately: true }
            )
            yield* Effect.sleep("500 millis")
            return waiting
          }))
          const meanwhile = yield* counted(Effect.sleep(`${seconds} seconds`))
          const { count } = yield* counted(Effect.andThen(
            Effect.provide(start(Timed.toLayer(() => Effect.void), { concurrency: 100 }), yield* other),
            Effect.timeout(Fiber.join(beginning.value), "15 seconds")
          ))
          figures(`awaiting ${handles} handles ${name}`, {
            "statements at the beginning": beginning.count,
            [`in ${seconds} s of waiting`]: meanwhile.count,
            "until all results were there": count
          })
          assert.isAtMost(beginning.count, 10)
          assert.isAtMost(meanwhile.count, most)
          assert.isAtMost(count, 100)
        }), 60_000)
    }
  )
}
