/** What statements cost others: sends at the same time, and finishes that nobody awaits. */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as References from "effect/References"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import {
  claim,
  completed,
  ended,
  finish,
  newTask,
  newTasks,
  send,
  startWorker,
  uniqueQueue,
  want
} from "../contract/Harness.ts"
import { TestDatabase } from "../support/TestDatabase.ts"

const statements: Array<string> = []
const echo = Layer.merge(
  Logger.layer([
    Logger.make(({ fiber, message }) => {
      const { sql } = fiber.getRef(References.CurrentLogAnnotations)
      if (String(message).includes("statement")) statements.push(String(sql))
    })
  ]),
  Layer.succeed(References.MinimumLogLevel, "All")
)

const broker = PostgresBroker.layer.pipe(
  Layer.provide(
    Layer.unwrap(Effect.map(TestDatabase, ({ url }) => PostgresConfig.layer({ databaseUrl: url, echo: true })))
  ),
  Layer.provideMerge(TestDatabase.layer),
  Layer.provideMerge(echo)
)

/** The statements that run meanwhile and have this in their text. */
const meanwhile = Effect.fnUntraced(function*<A, E, R>(part: string, self: Effect.Effect<A, E, R>) {
  const before = statements.length
  yield* self
  return statements.slice(before).filter((statement) => statement.includes(part)).length
})

layer(broker, { excludeTestServices: true })("the statements of a broker", (it) => {
  it.effect("500 sends at the same time share a few", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const inserts = yield* meanwhile(
        "insert into public.horsies_tasks",
        Effect.forEach(newTasks(500, { queue }), (task) => send(task), { concurrency: "unbounded", discard: true })
      )
      assert.isAbove(inserts, 0)
      assert.isBelow(inserts, 50)
      assert.lengthOf(yield* claim(yield* startWorker, want(queue)), 500)
    }))

  it.effect("100 sends at the same time wake the workers of other processes a few times", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const notifications = yield* meanwhile(
        "set_config('synchronous_commit', 'off', true), pg_notify(",
        Effect.andThen(
          Effect.forEach(newTasks(100, { queue }), (task) => send(task), { concurrency: "unbounded", discard: true }),
          // The trailing edge goes out after this one at the latest.
          send(newTask({ queue: uniqueQueue(), due: { after: 3_600_000 } }))
        )
      )
      assert.isBelow(notifications, 20)
    }))

  it.effect("finishes that nobody awaits are looked up for nobody", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      yield* send(...newTasks(100, { queue }))
      const tasks = yield* claim(worker, want(queue))
      const told = yield* meanwhile(
        "delete from public.horsies_waiters",
        finish(worker, ...tasks.map((task) => ended(task, completed())))
      )
      assert.strictEqual(told, 0)
    }))
})
