/** What a worker claims, what it starts first, and when it stops claiming. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { type AttemptEnd, Broker, type ClaimedTask, type Claims, type EndedAttempt } from "../../src/Broker.ts"
import * as MemoryBroker from "../../src/MemoryBroker.ts"
import * as Task from "../../src/Task.ts"
import { QueueSlots } from "../../src/worker/QueueSlots.ts"
import { memoryBut, refused } from "../support/brokers.ts"
import { outcomes, quick, start } from "../support/worker.ts"
import { Held } from "./tasks.ts"

const claimed = (id: string, options: Partial<ClaimedTask> = {}): ClaimedTask => ({
  id,
  fence: 1,
  name: "work",
  queue: "q",
  payload: "null",
  priority: 100,
  attempt: 1,
  losses: 0,
  waited: 0,
  version: 1,
  concurrencyKey: undefined,
  timeout: undefined,
  expiresIn: undefined,
  ...options
})

const slotsWith = (concurrency: number) => {
  const slots = new QueueSlots("q", concurrency, 0)
  slots.handle({ name: "work", version: 1 })
  return slots
}

/** Runs tasks that end at once until the queue wants many ahead. */
const warmUp = (slots: QueueSlots, payload = "null") => {
  const tasks = Array.from({ length: 200 }, (_, i) => claimed(`warm ${i}`, { payload }))
  for (const task of tasks) slots.hold({ task, worker: "w", claimedAt: 0 })
  slots.claimed({ queue: "q", handles: [], slots: 100, ahead: 100 }, 0, { tasks, again: 0, full: false }, 0)
  for (let i = 0; i < tasks.length; i++) {
    slots.take(i / 100)
    slots.free((i + 1) / 100)
  }
  slots.call()
}

const drain = (slots: QueueSlots) => {
  const order: Array<string> = []
  for (let ready = slots.take(0); ready !== undefined; ready = slots.take(0)) {
    order.push(ready.task.id)
    slots.free(0)
  }
  return order
}

describe("the slots of a queue", () => {
  it("start what is more urgent first, whatever was claimed before it", () => {
    const slots = slotsWith(1)
    for (
      const task of [
        claimed("later", { waited: 10 }),
        claimed("much later", { waited: 0 }),
        claimed("urgent", { priority: 1 }),
        claimed("earlier", { waited: 50 }),
        claimed("lost", { priority: 100, losses: 1 })
      ]
    ) {
      slots.hold({ task, worker: "w", claimedAt: 100 })
    }
    assert.deepStrictEqual(drain(slots), ["lost", "urgent", "earlier", "later", "much later"])
  })

  it("claim for an urgent call although enough is held ready", () => {
    const slots = slotsWith(1)
    warmUp(slots)
    for (let next = slots.want(10), i = 0; next !== undefined; next = slots.want(10)) {
      for (let n = next.want.slots + next.want.ahead; n > 0; n--) {
        slots.hold({ task: claimed(`held ${i++}`, { priority: 50 }), worker: "w", claimedAt: 10 })
      }
    }
    slots.call(50)
    assert.isUndefined(slots.want(10))
    slots.call(49)
    assert.isAtLeast(slots.want(10)!.want.ahead, 1)
    assert.isUndefined(slots.want(10))
  })

  it("hold few large payloads ready, and many small ones", () => {
    const [small, large] = [slotsWith(10), slotsWith(10)]
    warmUp(small)
    warmUp(large, "x".repeat(1_000_000))
    assert.isAbove(small.want(3)!.want.ahead, 100)
    assert.isAtMost(large.want(3)!.want.ahead, 16)
  })
})

class Plain extends Task.make("Plain", { payload: { n: Schema.Int }, success: Schema.Int }) {}

describe("a worker", () => {
  it.live("starts no more than it can get recorded", () => {
    let ran = 0
    const go = Effect.runSync(Deferred.make<void>())
    const full = Effect.runSync(Deferred.make<void>())
    return Effect.gen(function*() {
      yield* Plain.sendMany(Array.from({ length: 9000 }, (_, n) => ({ n })))
      yield* start(Plain.toLayer(({ n }) => Effect.sync(() => (ran++, n))), quick)
      // A flush hangs; what has gathered behind it is bounded, and then nothing more is claimed.
      yield* Deferred.await(full)
      assert.isAtMost(ran, 6000)
      const last = yield* Plain.send({ n: 9000 }, { priority: 100 })
      yield* Deferred.succeed(go, undefined)
      assert.strictEqual(yield* last.await, 9000)
      assert.strictEqual(ran, 9001)
    }).pipe(
      Effect.timeout("20 seconds"),
      Effect.scoped,
      Effect.provide(memoryBut((broker) => {
        let claims = 0
        /** More than may be unrecorded was claimed: the next claims must not come before something is recorded. */
        const count = ({ tasks }: Claims) => {
          claims += tasks.length
          return claims > 2000 ? Deferred.succeed(full, undefined) : Effect.void
        }
        return {
          // Flushes that run beside a claim.
          finish: (worker, attempts, wants) =>
            (attempts.length > 50 ? Deferred.await(go) : Effect.void).pipe(
              Effect.andThen(broker.finish(worker, attempts, wants)),
              Effect.tap(({ claimed }) => count(claimed))
            ),
          claim: (...args) => Effect.tap(broker.claim(...args), count)
        }
      }))
    )
  })

  it.live("runs a task that was lost before although a backlog keeps every slot busy", () =>
    Effect.gen(function*() {
      const lost = yield* Held.send({ n: -1 }, { priority: 1 })
      // Another worker is lost while it holds it.
      yield* Effect.scoped(Effect.gen(function*() {
        const broker = yield* Broker
        const worker = yield* Task.makeId
        yield* broker.register({ id: worker, lease: 1, host: "h", pid: 1, handles: [] })
        yield* broker.claim(worker, [{ queue: "held", handles: [{ name: "Held", version: 1 }], slots: 1, ahead: 0 }])
        yield* broker.deregister(worker)
        yield* broker.recover
      }))
      yield* Held.sendMany(Array.from({ length: 20_000 }, (_, n) => ({ n })))
      let others = 0
      yield* start(
        Held.toLayer(({ n }) =>
          Effect.as(n < 0 ? Effect.void : Effect.andThen(Effect.sync(() => others++), Effect.yieldNow), n)
        ),
        { ...quick, concurrency: 2 }
      )
      assert.strictEqual(yield* lost.await, -1)
      assert.isBelow(others, 5000)
    }).pipe(Effect.timeout("20 seconds"), Effect.scoped, Effect.provide(MemoryBroker.layer)))

  it.live("does not blame an attempt for the claim that failed in the same statement", () =>
    Effect.gen(function*() {
      yield* start(Held.toLayer(({ n }) => Effect.succeed(n)), quick)
      const handle = yield* Held.send({ n: 5 })
      assert.strictEqual(yield* handle.await, 5)
      assert.deepStrictEqual(yield* outcomes(handle.id), ["Completed"])
    }).pipe(
      Effect.scoped,
      Effect.provide(memoryBut((broker) => ({
        finish: (worker, attempts, wants) =>
          wants.length > 0 ? Effect.fail(refused) : broker.finish(worker, attempts, wants)
      })))
    ))

  it.live("fails a task whose retry cannot be stored, so that whoever waits learns of it", () => {
    const isRetry = ({ end }: EndedAttempt): boolean => (end as AttemptEnd)._tag === "Retry"
    return Effect.gen(function*() {
      class Again extends Task.make("Again", { retry: { times: 3 } }) {}
      yield* start(Again.toLayer(() => Effect.die("oh")), quick)
      const error = yield* Effect.flip(Effect.flatMap(Again.send(), (handle) => handle.await))
      assert.include(String(error.message), "cannot be stored")
    }).pipe(
      Effect.scoped,
      Effect.provide(memoryBut((broker) => ({
        finish: (worker, attempts, wants) =>
          attempts.some(isRetry) ? Effect.fail(refused) : broker.finish(worker, attempts, wants)
      })))
    )
  })
})
