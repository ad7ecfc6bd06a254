/** How soon tasks start. */
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { SqlClient } from "effect/sql/SqlClient"
import { Broker } from "../../src/Broker.ts"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as TestBroker from "../support/TestBroker.ts"
import { start } from "../support/worker.ts"
import { figures, quantile } from "./figures.ts"
import * as Machine from "./machine.ts"
import { Timed } from "./tasks.ts"

/** The broker of another process, as far as wake-ups are concerned. */
const otherBroker = Effect.map(
  Layer.build(Layer.fresh(Layer.provide(PostgresBroker.layer, TestBroker.config))),
  Context.get(Broker)
)

/** A broker that counts what a worker asks it for. */
const counting = (broker: Broker["Service"]) => {
  const calls = { promote: 0, claim: 0 }
  return {
    calls,
    broker: Broker.of({
      ...broker,
      promote: (queues) => Effect.suspend(() => (calls.promote++, broker.promote(queues))),
      claim: (worker, wants) => Effect.suspend(() => (calls.claim++, broker.claim(worker, wants)))
    })
  }
}

const epochNow = Effect.sync(() => performance.timeOrigin + performance.now())

layer(TestBroker.layer, { excludeTestServices: true, timeout: "30 seconds" })("the start of a task", (it) => {
  it.effect(
    "1,000 tasks due within 10 seconds start at their times, without polling while none is due",
    () =>
      Effect.gen(function*() {
        const count = 1000
        const lateness: Array<number> = []
        const all = yield* Deferred.make<void>()
        const { broker, calls } = counting(yield* otherBroker)
        yield* Effect.provideService(
          start(
            Timed.toLayer(({ at }) =>
              Effect.gen(function*() {
                lateness.push((yield* epochNow) - at)
                if (lateness.length === count) yield* Deferred.succeed(all, undefined)
              })
            ),
            { concurrency: 50 }
          ),
          Broker,
          broker
        )
        // Nothing is due in the first seconds.
        const quiet = 4000
        const begin = (yield* epochNow) + quiet + 500
        const sent = Array.from({ length: count }, (_, i) => begin + ((i * 7919) % count) * 10 + (i % 10))
        yield* Effect.forEach(sent, (at) => Timed.send({ at }, { runAt: Math.round(at) }), { concurrency: 50 })
        const before = { ...calls }
        const from = yield* epochNow
        yield* Effect.sleep(begin - from - 100)
        const seconds = (begin - from - 100) / 1000
        const promotions = calls.promote - before.promote
        const claims = calls.claim - before.claim
        const machine = yield* Machine.probe
        yield* Deferred.await(all).pipe(Effect.timeout("30 seconds"))
        figures("1,000 delayed tasks", {
          "lateness p50 (ms)": quantile(lateness, 0.5),
          "p99": quantile(lateness, 0.99),
          "most": Math.max(...lateness),
          "nothing due (s)": seconds,
          "promotions meanwhile": promotions,
          "claims meanwhile": claims,
          "the machine was late (ms), p99": machine.late(0.99)
        })
        assert.isAbove(Math.min(...lateness), -2)
        assert.isAtMost(promotions, seconds)
        assert.isAtMost(claims, seconds)
        // The tail is the machine's own where that has more to do than this.
        const share = machine.isIdle() ? 0.99 : 0.5
        assert.isAtMost(quantile(lateness, share), 25 + machine.beyond(share))
      }),
    60_000
  )

  it.effect(
    "what was sent in a transaction of 5 seconds starts within 50 milliseconds after its commit",
    () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient
        const started = yield* Deferred.make<number>()
        yield* Effect.provideService(
          start(Timed.toLayer(() => Effect.flatMap(epochNow, (at) => Deferred.succeed(started, at)))),
          Broker,
          yield* otherBroker
        )
        const machine = yield* Machine.probe
        const [early, committing] = yield* sql.withTransaction(Effect.gen(function*() {
          yield* Timed.send({ at: 0 })
          yield* sql`select pg_sleep(5)`
          return [yield* Deferred.isDone(started), yield* epochNow] as const
        }))
        assert.isFalse(early)
        const after = (yield* Deferred.await(started).pipe(Effect.timeout("10 seconds"))) - committing
        figures("a send in a transaction of 5 s", {
          "started after the commit (ms)": after,
          "the machine was late (ms), p99": machine.late(0.99)
        })
        assert.isBelow(after, 50 + machine.beyond(1))
      }),
    30_000
  )
})
