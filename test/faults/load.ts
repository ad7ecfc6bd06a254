/** Producers and workers under load, and what has to be true of them whatever happens meanwhile. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import * as Task from "../../src/Task.ts"
import { eventually } from "../support/eventually.ts"
import { until } from "../support/worker.ts"

/** The task of the load. */
export class Double extends Task.make("Double", { payload: { n: Schema.Int }, success: Schema.Int }) {}

type Handle = Effect.Success<ReturnType<typeof Double.send>>
type Failure = Effect.Error<ReturnType<typeof Double.send>>

/** When each task ran, by `performance.now()`. */
export type Runs = Map<number, number>

/** What a worker runs. */
export const handler = (runs?: Runs) =>
  Double.toLayer(({ n }) =>
    Effect.sync(() => {
      runs?.set(n, performance.now())
      return n * 2
    })
  )

/** Starts producers that send one task after the other, whatever happens, until they are told to stop. */
export const start = Effect.fnUntraced(function*(producers: number) {
  const acknowledged: Array<{ readonly n: number; readonly handle: Handle; readonly at: number }> = []
  const failures: Array<Failure> = []
  let sent = 0
  let stopped = false
  const produce = Effect.suspend(() => {
    const n = ++sent
    return Effect.matchEffect(Double.send({ n }), {
      onSuccess: (handle) => Effect.sync(() => void acknowledged.push({ n, handle, at: performance.now() })),
      onFailure: (error) => Effect.andThen(Effect.sync(() => failures.push(error)), Effect.sleep("20 millis"))
    })
  })
  const loop = Effect.whileLoop({ while: () => !stopped, body: () => produce, step: () => undefined })
  const running = yield* Effect.forkScoped(
    Effect.forEach(Array.from({ length: producers }), () => loop, { concurrency: "unbounded", discard: true })
  )
  return {
    acknowledged: acknowledged as ReadonlyArray<(typeof acknowledged)[number]>,
    failures: failures as ReadonlyArray<Failure>,
    /** Waits until so many more sends have been acknowledged. */
    progress: (count: number) =>
      Effect.suspend(() => {
        const enough = acknowledged.length + count
        return eventually(`${count} more acknowledged sends`, () => acknowledged.length >= enough)
      }),
    /**
     * Stops the producers. Every acknowledged send must have the outcome that it should, and one only; every failed one
     * must have said that trying again can help.
     */
    settle: Effect.gen(function*() {
      stopped = true
      yield* Fiber.join(running)
      const results = yield* Effect.forEach(acknowledged, ({ handle }) => handle.await, {
        concurrency: "unbounded"
      }).pipe(Effect.timeout("30 seconds"))
      assert.deepStrictEqual(results, acknowledged.map(({ n }) => n * 2))
      assert.deepStrictEqual(failures.filter((error) => error._tag !== "BrokerError" || !error.isRetryable), [])
      // What was not acknowledged may have arrived all the same: it ends too.
      yield* until("select not exists (select from horsies_tasks)")
      const sql = yield* SqlClient
      const [row] = yield* sql`
        select count(*)::int as ended, count(distinct id)::int as tasks,
          count(*) filter (where state = 'COMPLETED')::int as completed
        from horsies_history where id = any (${acknowledged.map(({ handle }) => handle.id)}::uuid[])`
      const count = acknowledged.length
      assert.deepStrictEqual(row, { ended: count, tasks: count, completed: count })
      return count
    })
  }
})

export type Load = Effect.Success<ReturnType<typeof start>>
