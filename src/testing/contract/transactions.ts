/** The contract of `transact`, for brokers with SQL transactions: effects in the database happen exactly once. */
import { assert } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import { type AttemptEnd, Broker, type Hold } from "../../Broker.ts"
import { Harness, type It } from "./Harness.ts"
import {
  claimOne,
  completed,
  ended,
  failed,
  find,
  finish,
  leasePasses,
  newTask,
  outcome,
  recover,
  release,
  retry,
  send,
  sendAndClaim,
  startWorker,
  uniqueQueue,
  uuid
} from "./steps.ts"

const transactional = Effect.flatMap(
  Harness,
  ({ transactional }) =>
    transactional === undefined
      ? Effect.die(new Error("the harness of a broker with transactions has to be transactional"))
      : Effect.succeed(transactional)
)

const transact = <R>(
  worker: string,
  hold: Hold,
  attempt: Effect.Effect<{ readonly end: AttemptEnd; readonly elapsed: number }, never, R>
) => Broker.use((broker) => broker.transact(worker, hold, attempt))

/** How many markers an effect has left behind. */
const markersOf = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const { count } = yield* transactional
    const before = yield* count
    const result = yield* effect
    return { markers: (yield* count) - before, result }
  })

/** An attempt that writes a marker and ends that way. */
const marking = (end: AttemptEnd) =>
  Effect.gen(function*() {
    const { write } = yield* transactional
    yield* write
    return { end, elapsed: 10 }
  })

export const withoutTransactions = (it: It) => {
  it.effect("a broker without transactions says so", () =>
    Effect.gen(function*() {
      const broker = yield* Broker
      assert.isFalse(yield* broker.transactional)
      const attempt = Effect.succeed({ end: completed(), elapsed: 0 })
      const { reason } = yield* Effect.flip(broker.transact(uuid(), { id: uuid(), fence: 1 }, attempt))
      assert.isTrue(reason._tag === "Misconfigured" && reason.code === "TRANSACTIONS_UNSUPPORTED")
    }))
}

export const transactions = (it: It) => {
  it.effect("what a completed attempt has written is there, once, and the task is COMPLETED with it", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      const hold = yield* sendAndClaim(worker)
      const waiting = yield* Effect.forkChild(outcome(hold.id), { startImmediately: true })
      const { markers, result } = yield* markersOf(transact(worker, hold, marking(completed("1"))))
      assert.deepStrictEqual(result, { end: completed("1"), settled: true })
      assert.strictEqual(markers, 1)
      assert.deepStrictEqual(yield* Effect.timeout(Fiber.join(waiting), "2 seconds"), { _tag: "Completed", value: "1" })
      const record = yield* find(hold.id)
      assert.strictEqual(record.attempts, 1)
      assert.strictEqual(record.history[0]!.outcome, "Completed")
      assert.approximately(record.history[0]!.endedAt - record.history[0]!.startedAt!, 10, 0.01)
      // Once more, as after an answer that was lost.
      const again = yield* markersOf(transact(worker, hold, marking(completed("2"))))
      assert.strictEqual(again.markers, 0)
      assert.isTrue(again.result.settled)
      assert.deepStrictEqual(yield* outcome(hold.id), { _tag: "Completed", value: "1" })
    }))

  const others: Readonly<Record<string, AttemptEnd>> = {
    "has failed": failed("Error", "1"),
    "is to be tried again": retry(0, "Error", "1"),
    "was snoozed": { _tag: "Snoozed", delay: 0 },
    "was interrupted": { _tag: "Interrupted", why: "Shutdown" },
    "was cancelled": { _tag: "Cancelled" }
  }
  for (const [what, end] of Object.entries(others)) {
    it.effect(`what an attempt has written that ${what} is gone, and its end is yet to be recorded`, () =>
      Effect.gen(function*() {
        const worker = yield* startWorker
        const hold = yield* sendAndClaim(worker)
        const { markers, result } = yield* markersOf(transact(worker, hold, marking(end)))
        assert.deepStrictEqual(result, { end, settled: false })
        assert.strictEqual(markers, 0)
        const { attempts, state } = yield* find(hold.id)
        assert.deepStrictEqual({ attempts, state }, { attempts: 0, state: "CLAIMED" })
        assert.strictEqual((yield* finish(worker, ended(hold, end))).accepted.size, 1)
      }))
  }

  it.effect("an attempt whose hold stands no longer leaves nothing behind and changes nothing", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const [worker, other] = [yield* startWorker, yield* startWorker]
      const hold = yield* sendAndClaim(worker, { queue })
      yield* release(worker, hold)
      const second = yield* claimOne(other, queue)
      const before = yield* find(hold.id)
      for (const [who, what] of [[worker, hold], [worker, second], [other, hold], [uuid(), second]] as const) {
        const { markers, result } = yield* markersOf(transact(who, what, marking(completed())))
        assert.strictEqual(markers, 0)
        assert.isTrue(result.settled)
        assert.deepStrictEqual(yield* find(hold.id), before)
      }
    }))

  it.effect("a hold that is taken away during the attempt: either both are there, the effects and the outcome, or none", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      const hold = yield* sendAndClaim(worker)
      const { markers, result } = yield* markersOf(Effect.gen(function*() {
        const [started, goOn] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
        const running = yield* Effect.forkChild(transact(
          worker,
          hold,
          Effect.gen(function*() {
            const result = yield* marking(completed("1"))
            yield* Deferred.succeed(started, undefined)
            yield* Deferred.await(goOn)
            return result
          })
        ))
        yield* Deferred.await(started)
        yield* leasePasses()
        yield* recover
        yield* Deferred.succeed(goOn, undefined)
        return yield* Fiber.join(running)
      }))
      assert.isTrue(result.settled)
      assert.strictEqual((yield* find(hold.id)).state, markers === 1 ? "COMPLETED" : "PENDING")
    }))

  it.effect("what an attempt has written that is interrupted is gone, and its hold stands", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      const hold = yield* sendAndClaim(worker)
      const { markers } = yield* markersOf(Effect.gen(function*() {
        const started = yield* Deferred.make<void>()
        const running = yield* Effect.forkChild(transact(
          worker,
          hold,
          Effect.gen(function*() {
            yield* marking(completed())
            yield* Deferred.succeed(started, undefined)
            return yield* Effect.never
          })
        ))
        yield* Deferred.await(started)
        yield* Fiber.interrupt(running)
      }))
      assert.strictEqual(markers, 0)
      assert.strictEqual((yield* find(hold.id)).state, "CLAIMED")
      assert.strictEqual((yield* finish(worker, ended(hold, completed()))).accepted.size, 1)
    }))

  it.effect("what an attempt has written that dies is gone, and its hold stands", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      const hold = yield* sendAndClaim(worker)
      const dying = Effect.andThen(marking(completed()), Effect.die(new Error("boom")))
      const { markers, result } = yield* markersOf(Effect.exit(transact(worker, hold, dying)))
      assert.strictEqual(markers, 0)
      assert.isTrue(Exit.isFailure(result))
      assert.strictEqual((yield* find(hold.id)).state, "CLAIMED")
    }))

  it.effect("what an attempt sends is sent with its completion, and not at all with any other end", () =>
    Effect.gen(function*() {
      const broker = yield* Broker
      const worker = yield* startWorker
      for (const end of [completed(), failed()]) {
        const hold = yield* sendAndClaim(worker)
        const task = newTask({ queue: uniqueQueue() })
        yield* transact(worker, hold, Effect.as(Effect.orDie(send(task)), { end, elapsed: 0 }))
        assert.strictEqual(Option.isSome(yield* broker.find(task.id)), end._tag === "Completed")
      }
    }))

  it.effect("attempts at the same time complete each by itself", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      const holds = yield* Effect.forEach(Array.from({ length: 12 }), () => sendAndClaim(worker))
      const { markers, result } = yield* markersOf(Effect.forEach(
        holds,
        (hold, i) => transact(worker, hold, marking(i % 3 === 0 ? failed() : completed())),
        { concurrency: "unbounded" }
      ))
      assert.strictEqual(markers, 8)
      assert.deepStrictEqual(result.map(({ settled }) => settled), holds.map((_, i) => i % 3 !== 0))
    }))
}
