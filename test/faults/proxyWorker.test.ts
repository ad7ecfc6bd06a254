import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import { SqlClient } from "effect/sql/SqlClient"
import * as SubscriptionRef from "effect/SubscriptionRef"
import { SessionListener } from "../../src/connection/SessionListener.ts"
import type { FaultProxy } from "../support/FaultProxy.ts"
import { TestDatabase } from "../support/TestDatabase.ts"
import { start } from "../support/worker.ts"
import { Echo } from "../worker/tasks.ts"
import * as brokers from "./brokers.ts"
import * as proxied from "./proxied.ts"
import { reconnected } from "./session.ts"

/** idle + interval × count of `proxied.alert`, in milliseconds, and what a slow machine may take on top. */
const bound = 3000
const slack = 500

const count = 30

/** A worker over settings, and a broker of another process past the proxy. Tells when each task started. */
const makeWorker = Effect.fnUntraced(function*(settings: (through: Redacted.Redacted) => proxied.Settings) {
  const { url } = yield* TestDatabase
  const { options, proxy } = yield* proxied.make()
  const elsewhere = yield* brokers.make({ databaseUrl: url })
  const own = yield* brokers.make({
    ...proxied.alert,
    ...options,
    databaseUrl: url,
    ...settings(options.databaseUrl)
  })
  const started: Array<number> = []
  const all = yield* Deferred.make<void>()
  yield* start(
    Echo.toLayer(({ text }) =>
      Effect.suspend(() => {
        if (text === "first") return Effect.succeed(text)
        return Effect.as(
          started.push(performance.now()) === count ? Deferred.succeed(all, undefined) : Effect.void,
          text
        )
      })
    ),
    {}
  ).pipe(Effect.provideContext(Context.merge(yield* Effect.context<never>(), own) as typeof own))
  const send = (text: string) => Effect.provideContext(Echo.send({ text }), elsewhere)
  yield* Effect.flatMap(send("first"), (handle) => Effect.provideContext(handle.await, elsewhere))
  return { proxy, own, started, all, send, listener: Context.get(own, SessionListener) }
})

/** Whether nothing is sent for a moment. */
const quiet = (proxy: FaultProxy) =>
  Effect.gen(function*() {
    const { requests } = proxy.counters()
    yield* Effect.sleep("200 millis")
    return proxy.counters().requests === requests
  })

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("a worker on a half-open link", (it) => {
  const cases = [
    { of: "its session", settings: (through: Redacted.Redacted) => ({ sessionDatabaseUrl: through }) },
    // The idle links of the pool are dead, too.
    { of: "every connection", settings: (through: Redacted.Redacted) => ({ databaseUrl: through }) }
  ]
  for (const { of, settings } of cases) {
    it.effect(`${of}: is back within the bound, and runs within a second what another process sent meanwhile`, () =>
      Effect.gen(function*() {
        const { all, listener, proxy, send, started } = yield* makeWorker(settings)
        yield* proxy.freeze()
        const frozenAt = performance.now()
        yield* Effect.forEach(Array.from({ length: count }), (_, i) => send(String(i)), { discard: true })
        yield* reconnected(listener, 1)
        const backAt = performance.now()
        assert.isBelow(backAt - frozenAt, bound + slack)
        yield* Effect.timeout(Deferred.await(all), "10 seconds")
        assert.isBelow(Math.max(...started) - backAt, 1000)
        assert.strictEqual(SubscriptionRef.getUnsafe(listener.state).reconnects, 1)
      }))
  }
})

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("a worker's heartbeat", (it) => {
  it.effect("gives a dead link up before the next is due: a handler that runs meanwhile goes on", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase
      const { applicationName, options, proxy } = yield* proxied.make()
      const context = yield* brokers.make({
        databaseUrl: url,
        sessionDatabaseUrl: options.databaseUrl,
        applicationName
      })
      const runs: Array<string> = []
      const release = yield* Deferred.make<void>()
      yield* start(
        Echo.toLayer(({ text }) => Effect.as(Effect.suspend(() => (runs.push(text), Deferred.await(release))), text)),
        { heartbeatInterval: "1 second", lease: "3 seconds" }
      ).pipe(Effect.provideContext(Context.merge(yield* Effect.context<never>(), context) as typeof context))
      const observer = yield* SqlClient
      // The worst moment: a heartbeat has just succeeded.
      const beats = Effect.map(
        observer<{ readonly at: number }>`
          select extract(epoch from max(query_start))::float8 as at from pg_stat_activity
          where application_name = ${applicationName} and query like '%horsies_heartbeats%'`,
        ([row]) => row?.at ?? 0
      )
      yield* Effect.gen(function*() {
        const handle = yield* Echo.send({ text: "long" })
        yield* proxied.until("it runs", Effect.sync(() => runs.length === 1))
        for (let round = 0; round < 3; round++) {
          const before = yield* beats
          yield* proxied.until("the next heartbeat", Effect.map(beats, (at) => at > before))
          yield* Effect.sleep("50 millis")
          yield* proxy.freeze()
          const frozen = yield* beats
          yield* proxied.until("a heartbeat over a new link", Effect.map(beats, (at) => at > frozen + 0.5))
        }
        yield* Deferred.succeed(release, undefined)
        assert.strictEqual(yield* handle.await, "long")
      }).pipe(Effect.provideContext(context))
      assert.deepStrictEqual(runs, ["long"])
      const rows = yield* observer`select losses, fence from horsies_history where payload->>'text' = 'long'`
      assert.deepStrictEqual(rows, [{ losses: 0, fence: 1 }])
    }))
})

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("a worker whose claim was made", (it) => {
  it.effect("but whose answer was lost: the tasks run all the same, and nobody was lost", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase
      const { all, proxy, send } = yield* makeWorker((through) => ({
        databaseUrl: through,
        sessionDatabaseUrl: url,
        poolSize: 1,
        maxOverflow: 0
      }))
      // Nothing is under way, and the one connection of the pool has been used too lately to be asked whether it lives.
      yield* proxied.until("the worker is idle", quiet(proxy))
      yield* proxy.freeze("answers")
      yield* Effect.forEach(Array.from({ length: count }), (_, i) => send(String(i)), { concurrency: "unbounded" })
      const observer = yield* SqlClient
      const claimed = observer`select from horsies_tasks where state = 'CLAIMED'`
      yield* proxied.until("they are claimed", Effect.map(claimed, (rows) => rows.length > 0))
      yield* Effect.timeout(Deferred.await(all), bound + 2000)
      yield* proxied.until(
        "everything is recorded",
        Effect.map(observer`select from horsies_tasks limit 1`, (rows) => rows.length === 0)
      )
      const rows = yield* observer`select count(*)::int, sum(losses)::int as losses, max(fence) as claims
        from horsies_history where payload->>'text' <> 'first'`
      assert.deepStrictEqual(rows, [{ count, losses: 0, claims: 2 }])
    }))
})

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("a sender on a half-open link", (it) => {
  it.effect("succeeds, or is told within the bound of two tries that it can try again, and then can", () =>
    Effect.gen(function*() {
      // One connection, and nobody asks whether it lives before it is used.
      const { options, proxy } = yield* proxied.make({
        ...proxied.alert,
        poolSize: 1,
        maxOverflow: 0,
        poolPrePing: false
      })
      const context = yield* brokers.make(options)
      const send = Effect.provideContext(Echo.send({ text: "hello" }), context)
      yield* send
      yield* proxied.until("its wake-up is through", quiet(proxy))
      yield* proxy.freeze("answers")
      // It is tried twice, under one id.
      const { exit, millis } = yield* proxied.timed(send)
      assert.isBelow(millis, 2 * bound + slack)
      yield* Effect.catch(
        exit,
        (error) => Effect.sync(() => assert.isTrue(error._tag === "BrokerError" && error.isRetryable))
      )
      const retried = yield* proxied.timed(send)
      assert.isBelow(retried.millis, 1000 + slack)
      const handle = yield* retried.exit
      const observer = yield* SqlClient
      // The one in between has arrived, too, and once: what was swallowed was the answer.
      const rows = yield* observer<{ readonly id: string }>`select id from horsies_tasks order by sent_at`
      assert.strictEqual(rows.length, 3)
      assert.strictEqual(rows[2]?.id, handle.id)
    }))
})
