/** Outages of the broker: who takes tasks away from whom afterwards, and how soon everything goes on. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Random from "effect/Random"
import * as TestClock from "effect/testing/TestClock"
import type { Broker, BrokerError } from "../../src/Broker.ts"
import { claimOne, lease, newTask, send, startWorker } from "../../src/testing/contract/steps.ts"
import * as Backoff from "../../src/worker/Backoff.ts"
import { memoryBut, refused, unavailable } from "../support/brokers.ts"
import { record, start } from "../support/worker.ts"
import { Held } from "./tasks.ts"

const heartbeatInterval = lease / 3
const options = { heartbeatInterval, lease, concurrency: 1 }

/** Time passes second by second, so that everybody who waits gets a turn. */
const passes = Effect.fnUntraced(function*(millis: number) {
  for (let passed = 0; passed < millis; passed += 1000) {
    yield* TestClock.adjust(Math.min(1000, millis - passed))
  }
})

/** Every wait is as long as it can be. */
const withLongWaits = Effect.provideService(Random.Random, { nextIntUnsafe: () => 0, nextDoubleUnsafe: () => 0.999 })

/** A worker elsewhere that holds a task. */
const elsewhere = Effect.gen(function*() {
  const task = newTask({ queue: "elsewhere" })
  yield* send(task)
  yield* claimOne(yield* startWorker, "elsewhere")
  return { losses: Effect.map(record(task.id), ({ losses }) => losses) }
})

/** A broker in memory that cannot be reached for as long as somebody says so. */
const unreachable = (isAway: () => boolean, otherwise: (broker: Broker["Service"]) => Partial<Broker["Service"]>) => {
  const unless = <A>(effect: Effect.Effect<A, BrokerError>): Effect.Effect<A, BrokerError> =>
    Effect.suspend(() => isAway() ? Effect.fail(unavailable) : effect)
  return memoryBut((broker) => ({
    register: (worker) => unless(broker.register(worker)),
    heartbeat: (worker, running, snapshot) => unless(broker.heartbeat(worker, running, snapshot)),
    claim: (worker, wants) => unless(broker.claim(worker, wants)),
    finish: (worker, attempts, wants) => unless(broker.finish(worker, attempts, wants)),
    promote: (queues) => unless(broker.promote(queues)),
    release: (worker, holds) => unless(broker.release(worker, holds)),
    recover: unless(broker.recover),
    ...otherwise(broker)
  }))
}

describe("after a heartbeat that failed", () => {
  it.effect("and another that did not, a worker recovers others within lease and interval all the same", () => {
    let beats = 0
    return Effect.gen(function*() {
      yield* start(Layer.empty, options)
      yield* passes(2 * lease)
      const { losses } = yield* elsewhere
      yield* passes(lease)
      assert.strictEqual(yield* losses, 0)
      yield* passes(heartbeatInterval)
      assert.strictEqual(yield* losses, 1)
    }).pipe(
      Effect.scoped,
      Effect.provide(memoryBut((broker) => ({
        heartbeat: (worker, running) =>
          Effect.suspend(() => ++beats % 2 === 0 ? Effect.fail(unavailable) : broker.heartbeat(worker, running))
      })))
    )
  })
})

describe("without an outage", () => {
  it.effect("a worker recovers another as soon as the lease of that has passed", () =>
    Effect.gen(function*() {
      yield* start(Layer.empty, options)
      yield* passes(2 * lease)
      // At another moment than the looks of the worker.
      yield* TestClock.adjust(heartbeatInterval / 2)
      const { losses } = yield* elsewhere
      yield* passes(lease)
      assert.strictEqual(yield* losses, 0)
      // Not all workers at the same moment.
      yield* TestClock.adjust(heartbeatInterval / 20 + 2)
      assert.strictEqual(yield* losses, 1)
    }).pipe(Effect.scoped, Effect.provide(memoryBut(() => ({})))))
})

describe("after an outage", () => {
  it.effect("a worker that lost its own lease recovers others within two intervals after it is back", () => {
    let away = false
    return Effect.gen(function*() {
      yield* start(Layer.empty, options)
      yield* passes(2 * lease)
      const { losses } = yield* elsewhere
      away = true
      yield* passes(2 * lease)
      away = false
      assert.strictEqual(yield* losses, 0)
      yield* passes(2 * heartbeatInterval)
      assert.strictEqual(yield* losses, 1)
    }).pipe(Effect.scoped, Effect.provide(unreachable(() => away, () => ({}))))
  })

  it.effect("a claim goes on as soon as anything else has shown that the broker is back", () => {
    let away = false
    return Effect.gen(function*() {
      const [running, go] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      yield* start(
        Held.toLayer(({ n }) =>
          n > 1 ? Effect.succeed(n) : Deferred.succeed(running, undefined).pipe(
            Effect.andThen(Deferred.await(go)),
            Effect.as(n)
          )
        ),
        { heartbeatInterval: "1 hour", lease: "3 hours", concurrency: 2 }
      )
      const first = yield* Held.send({ n: 1 })
      yield* Deferred.await(running)
      away = true
      const second = yield* Held.send({ n: 2 })
      yield* passes(60_000)
      away = false
      yield* Deferred.succeed(go, undefined)
      assert.strictEqual(yield* first.await, 1)
      const waiting = yield* Effect.forkChild(second.await, { startImmediately: true })
      yield* TestClock.adjust(100)
      assert.deepStrictEqual(waiting.pollUnsafe(), Exit.succeed(2))
    }).pipe(
      Effect.scoped,
      withLongWaits,
      Effect.provide(unreachable(() => away, (broker) => ({
        // Apart from the claim.
        finish: (worker, attempts) => broker.finish(worker, attempts, [])
      })))
    )
  })
})

describe("a wait between two tries", () => {
  const waiting = (backoff: Backoff.Backoff, error = unavailable) =>
    Effect.forkChild(backoff.wait(10, error), { startImmediately: true })

  it.effect("ends when another request is answered, also between the failure and the wait", () =>
    Effect.gen(function*() {
      const backoff = yield* Backoff.make
      yield* backoff.attempt(Effect.fail(unavailable))
      const during = yield* waiting(backoff)
      yield* TestClock.adjust(4000)
      assert.isUndefined(during.pollUnsafe())
      yield* backoff.attempt(Effect.void)
      yield* Fiber.join(during)

      yield* backoff.attempt(Effect.fail(unavailable))
      yield* backoff.attempt(Effect.void)
      const after = yield* waiting(backoff)
      yield* TestClock.adjust(50)
      yield* Fiber.join(after)
    }).pipe(withLongWaits))

  it.effect("ends when its time is over if nobody is answered, or if the broker has refused", () =>
    Effect.gen(function*() {
      const backoff = yield* Backoff.make
      yield* backoff.attempt(Effect.fail(refused))
      yield* backoff.attempt(Effect.void)
      const afterRefusal = yield* waiting(backoff, refused)
      yield* backoff.attempt(Effect.fail(unavailable))
      const inOutage = yield* waiting(backoff)
      yield* TestClock.adjust(4990)
      assert.deepStrictEqual([afterRefusal.pollUnsafe(), inOutage.pollUnsafe()], [undefined, undefined])
      yield* TestClock.adjust(10)
      yield* Fiber.join(afterRefusal)
      yield* Fiber.join(inOutage)
    }).pipe(withLongWaits))
})
