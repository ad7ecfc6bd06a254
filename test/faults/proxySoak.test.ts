/**
 * Producers and workers behind one bad network. `HORSIES_SOAK_SECONDS` says how long it is bad (8), `HORSIES_SOAK_SEED`
 * repeats a run.
 */
import { assert, layer } from "@effect/vitest"
import * as Console from "effect/Console"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import { BrokerError } from "../../src/Broker.ts"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import * as Task from "../../src/Task.ts"
import type { FaultProxy } from "../support/FaultProxy.ts"
import { start } from "../support/worker.ts"
import * as brokers from "./brokers.ts"
import * as proxied from "./proxied.ts"

const seconds = Number(process.env["HORSIES_SOAK_SECONDS"] ?? 8)
const seed = Number(process.env["HORSIES_SOAK_SEED"] ?? Math.floor(Math.random() * 2 ** 32))

const producers = 10
const each = 100

class Numbered extends Task.make("Numbered", { payload: { n: Schema.Int }, success: Schema.Int }) {}

/** Numbers from 0 to 1 that a seed decides (mulberry32). */
const randomOf = (seed: number) => {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** One fault after the other until the time is over; then fair weather. */
const badWeather = Effect.fnUntraced(function*(proxy: FaultProxy, random: () => number) {
  const observer = yield* SqlClient
  const faults: ReadonlyArray<readonly [string, () => Effect.Effect<unknown, unknown>]> = [
    ["delay", () => proxy.set({ delay: random() * 150 })],
    ["bandwidth", () => proxy.set({ bytesPerSecond: 20_000 + random() * 200_000 })],
    ["freeze", () => proxy.freeze()],
    ["freeze requests", () => proxy.freeze("requests")],
    ["freeze answers", () => proxy.freeze("answers")],
    ["reset", () => proxy.reset],
    ["end", () => proxy.end],
    ["cut requests", () => proxy.cut("requests")],
    ["cut answers", () => proxy.cut("answers")],
    ["swallow new links", () => Effect.andThen(proxy.reset, proxy.set({ newLinks: "swallow" }))],
    ["refuse new links", () => Effect.andThen(proxy.reset, proxy.set({ newLinks: "refuse" }))],
    [
      "terminate",
      () => observer`select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'soak%'`
    ]
  ]
  const happened: Array<string> = []
  const until = performance.now() + seconds * 1000
  while (performance.now() < until) {
    const [name, fault] = faults[Math.floor(random() * faults.length)]!
    happened.push(name)
    yield* fault()
    yield* Effect.sleep(100 + random() * 700)
    yield* proxy.heal
    yield* Effect.sleep(random() * 300)
  }
  return happened
})

/** Sends one number until a send is acknowledged. What failed may have arrived all the same. */
const send = Effect.fnUntraced(function*(n: number, errors: Array<unknown>) {
  for (let failures = 0;; failures++) {
    const result = yield* Effect.result(Numbered.send({ n }))
    if (result._tag === "Success") return { n, failures, handle: result.success }
    errors.push(result.failure)
    yield* Effect.sleep("50 millis")
  }
})

const application = (applicationName: string) =>
  `select count(*) from pg_stat_activity
  where application_name = '${applicationName}'`

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("a bad network", (it) => {
  it.effect(`${producers * each} tasks through ${seconds} s of faults, seed ${seed}`, () =>
    Effect.gen(function*() {
      const observer = yield* SqlClient
      const { options, proxy } = yield* proxied.make(proxied.alert)
      const unhandled: Array<unknown> = []
      const onUnhandled = (error: unknown) => void unhandled.push(error)
      yield* Effect.acquireRelease(
        Effect.sync(() => process.on("unhandledRejection", onUnhandled).on("uncaughtException", onUnhandled)),
        () => Effect.sync(() => process.off("unhandledRejection", onUnhandled).off("uncaughtException", onUnhandled))
      )

      const scope = yield* Scope.make()
      const workers = ["soak_worker_1", "soak_worker_2"]
      const ran = new Map<number, number>()
      const handler = Numbered.toLayer(({ n }) =>
        Effect.sync(() => {
          ran.set(n, (ran.get(n) ?? 0) + 1)
          return n
        })
      )
      for (const applicationName of workers) {
        const broker = Layer.provide(
          PostgresBroker.layerWorker,
          PostgresConfig.layer({ ...options, applicationName })
        )
        const context = yield* Scope.provide(Layer.build(Layer.fresh(broker)), scope)
        yield* start(handler, { heartbeatInterval: "1 second", lease: "5 seconds" }).pipe(
          Effect.provideContext(Context.add(context, Scope.Scope, scope))
        )
      }
      const producing = yield* Scope.provide(brokers.make({ ...options, applicationName: "soak_producers" }), scope)
      const most = new Map<string, number>()
      const counting = yield* Effect.forkScoped(Effect.forever(Effect.gen(function*() {
        for (const name of [...workers, "soak_producers"]) {
          most.set(name, Math.max(most.get(name) ?? 0, yield* proxied.sessions(name)))
        }
        yield* Effect.sleep("20 millis")
      })))

      const errors: Array<unknown> = []
      const pace = seconds * 1000 / each
      const sending = yield* Effect.forkChild(
        Effect.forEach(
          Array.from({ length: producers }, (_, producer) => producer),
          (producer) =>
            Effect.forEach(
              Array.from({ length: each }, (_, i) => producer * each + i),
              (n) => Effect.tap(send(n, errors), Effect.sleep(pace * 0.9))
            ),
          { concurrency: "unbounded" }
        ).pipe(Effect.provideContext(producing))
      )
      const happened = yield* badWeather(proxy, randomOf(seed))
      const acknowledged = (yield* Fiber.join(sending)).flat()

      // Everybody learns of the outcome.
      const results = yield* Effect.forEach(acknowledged, ({ handle }) => handle.await, { concurrency: "unbounded" })
        .pipe(Effect.provideContext(producing), Effect.timeout("60 seconds"))
      assert.deepStrictEqual(results, acknowledged.map(({ n }) => n))
      yield* proxied.until(
        "everything has ended",
        Effect.map(observer`select from horsies_tasks limit 1`, (rows) => rows.length === 0),
        "60 seconds"
      )
      yield* Fiber.interrupt(counting)

      // One outcome each; what arrived although its sender was told that it had failed comes on top.
      const unclear = acknowledged.reduce((sum, { failures }) => sum + failures, 0)
      const rows = yield* observer<{ readonly id: string; readonly n: number; readonly state: string }>`
        select id, (payload->>'n')::int as n, state::text from horsies_history where name = 'Numbered'`
      const ids = new Set(rows.map(({ id }) => id))
      assert.strictEqual(ids.size, rows.length, "none twice")
      assert.strictEqual(new Set(rows.map(({ n }) => n)).size, producers * each)
      assert.strictEqual(acknowledged.filter(({ handle }) => !ids.has(handle.id)).length, 0)
      assert.isAtMost(rows.length - acknowledged.length, unclear)
      assert.strictEqual(ran.size, producers * each)

      // Every error says whether trying again helps; of the faults here, it always does.
      assert.deepStrictEqual(errors.filter((error) => !(error instanceof BrokerError && error.isRetryable)), [])
      assert.deepStrictEqual(unhandled, [])

      if (process.env["HORSIES_SOAK_SECONDS"] !== undefined) {
        yield* Console.log({
          seed,
          faults: happened.length,
          errors: errors.length,
          arrivedThoughUnclear: rows.length - acknowledged.length,
          mostConnections: Object.fromEntries(most)
        })
      }
      // What is left when the load is gone: 3 + 2 of a worker, 5 + 2 of the producers.
      yield* proxied.until(
        "every pool is as small as it was",
        Effect.map(
          observer.unsafe<{ readonly small: boolean }>(
            `select (${application("soak_worker_1")}) <= 5 and (${application("soak_worker_2")}) <= 5
              and (${application("soak_producers")}) <= 7 as small`
          ),
          ([row]) => row!.small
        ),
        "60 seconds"
      )
      yield* Scope.close(scope, Exit.void)
      yield* proxied.until(
        "every connection is closed",
        Effect.map(
          observer`select from pg_stat_activity where application_name like 'soak%'`,
          (rows) => rows.length === 0 && proxy.counters().open === 0
        )
      )
    }), (seconds + 180) * 1000)
})
