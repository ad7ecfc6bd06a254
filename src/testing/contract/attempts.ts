/** The contract of what an attempt leaves behind, and of those that count for nothing. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { type AttemptEnd, FailureKind, Interruption } from "../../Broker.ts"
import type { It } from "./Harness.ts"
import {
  advance,
  assertWithin,
  claim,
  claimOne,
  completed,
  ended,
  failed,
  find,
  finish,
  isFor,
  newTask,
  notStarted,
  now,
  promote,
  retry,
  send,
  sendAndClaim,
  startWorker,
  subscribe,
  timeless,
  uniqueQueue,
  wakeUpThat,
  want
} from "./steps.ts"

const lost: AttemptEnd = { _tag: "Lost" }

/** How attempts fail. A loss is not reported, but found out. */
const kinds = FailureKind.literals.filter((kind) => kind !== "Lost")

export const attempts = (it: It) => {
  const recorded: ReadonlyArray<readonly [what: string, end: AttemptEnd, error?: string]> = [
    ["Completed", completed()],
    ["Cancelled", { _tag: "Cancelled" }],
    ...kinds.map((kind) => [kind, failed(kind, `"why"`), "why"] as const),
    ...kinds.map((kind) => [kind, retry(0, kind, `"why"`), "why"] as const)
  ]
  for (const [what, end, error] of recorded) {
    it.effect(`an attempt that ends with ${end._tag} is counted and recorded as ${what}`, () =>
      Effect.gen(function*() {
        const worker = yield* startWorker
        const hold = yield* sendAndClaim(worker)
        const { accepted } = yield* finish(worker, ended(hold, end, 25))
        assert.deepStrictEqual([...accepted], [hold.id])
        const record = yield* find(hold.id)
        assert.strictEqual(record.attempts, 1)
        assert.deepStrictEqual(timeless(record) as ReadonlyArray<unknown>, [
          { attempt: 1, outcome: what, worker, error }
        ])
        const [attempt] = record.history
        assert.approximately(attempt!.endedAt - attempt!.startedAt!, 25, 0.01)
      }))
  }

  it.effect("a task that was cancelled by its holder ends CANCELLED, asked for or not", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      const hold = yield* sendAndClaim(worker)
      yield* finish(worker, ended(hold, { _tag: "Cancelled" }))
      const { outcome, state } = yield* find(hold.id)
      assert.deepStrictEqual({ outcome, state }, { outcome: { _tag: "Cancelled" }, state: "CANCELLED" })
    }))

  for (const why of Interruption.literals) {
    it.effect(`an attempt that was interrupted (${why}) is recorded and not counted; its task is due as before`, () =>
      Effect.gen(function*() {
        const queue = uniqueQueue()
        const worker = yield* startWorker
        const dueAt = Math.round(yield* now) - 60_000
        const hold = yield* sendAndClaim(worker, { queue, due: { at: dueAt } })
        const wakeUps = yield* subscribe
        yield* finish(worker, ended(hold, { _tag: "Interrupted", why }, 25))
        yield* wakeUpThat(wakeUps, isFor(queue))
        const record = yield* find(hold.id)
        assert.strictEqual(record.state, "PENDING")
        assert.strictEqual(record.attempts, 0)
        assert.strictEqual(record.dueAt, dueAt)
        assert.isUndefined(record.worker)
        assert.deepStrictEqual(timeless(record), [{ attempt: 1, outcome: why, worker, error: undefined }])
        assert.approximately(record.history[0]!.endedAt - record.history[0]!.startedAt!, 25, 0.01)
        // It keeps its place.
        yield* send(newTask({ queue, due: { at: dueAt + 1 } }))
        const [again] = yield* claim(worker, want(queue, { slots: 1 }))
        assert.strictEqual(again!.id, hold.id)
        assert.strictEqual(again!.attempt, 1)
        assert.strictEqual(again!.losses, 0)
        yield* finish(worker, ended(again!, completed()))
        assert.deepStrictEqual(
          (yield* find(hold.id)).history.map(({ attempt, outcome }) => [attempt, outcome]),
          [[1, why], [1, "Completed"]]
        )
      }))
  }

  it.effect("a task that its handler postpones is due after the delay; no attempt is counted or recorded", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const hold = yield* sendAndClaim(worker, { queue })
      const { accepted } = yield* finish(worker, ended(hold, { _tag: "Snoozed", delay: 60_000 }))
      assert.deepStrictEqual([...accepted], [hold.id])
      const { attempts, dueAt, history, state } = yield* find(hold.id)
      assert.deepStrictEqual({ attempts, history, state }, { attempts: 0, history: [], state: "PENDING" })
      assertWithin(dueAt - (yield* now), 60_000)
      assertWithin(yield* promote(queue), 60_000)
      assert.deepStrictEqual(yield* claim(worker, want(queue)), [])
      yield* advance(60_001)
      yield* promote(queue)
      const again = yield* claimOne(worker, queue)
      assert.strictEqual(again.attempt, 1)
      assert.isAbove(again.fence, hold.fence)
      assert.isBelow(again.waited, 20_000)
    }))

  it.effect("a delay of nothing postpones a task behind what is due already", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const hold = yield* sendAndClaim(worker, { queue })
      const earlier = newTask({ queue, due: { at: Math.round(yield* now) - 1 } })
      yield* send(earlier)
      yield* finish(worker, ended(hold, { _tag: "Snoozed", delay: 0 }))
      assert.deepStrictEqual((yield* claim(worker, want(queue))).map(({ id }) => id), [earlier.id, hold.id])
    }))

  const unstarted: Readonly<Record<string, AttemptEnd>> = {
    Completed: completed(),
    Failed: failed(),
    Retry: retry(0),
    Snoozed: { _tag: "Snoozed", delay: 0 },
    Interrupted: { _tag: "Interrupted", why: "Shutdown" },
    Cancelled: { _tag: "Cancelled" },
    Expired: { _tag: "Expired" }
  }
  for (const [what, end] of Object.entries(unstarted)) {
    it.effect(`where no handler was started no attempt is counted or recorded: ${what}`, () =>
      Effect.gen(function*() {
        const worker = yield* startWorker
        const hold = yield* sendAndClaim(worker)
        const { accepted } = yield* finish(worker, notStarted(hold, end))
        assert.deepStrictEqual([...accepted], [hold.id])
        const { attempts, history, state } = yield* find(hold.id)
        const states: Readonly<Record<string, string>> = {
          Completed: "COMPLETED",
          Failed: "FAILED",
          Cancelled: "CANCELLED",
          Expired: "EXPIRED"
        }
        assert.deepStrictEqual<unknown>({ attempts, history, state }, {
          attempts: 0,
          history: [],
          state: states[what] ?? "PENDING"
        })
      }))
  }

  it.effect("an attempt whose process died counts as the loss of a worker does", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const first = yield* sendAndClaim(worker, { queue, maxLosses: 2 })
      const wakeUps = yield* subscribe
      assert.deepStrictEqual([...(yield* finish(worker, ended(first, lost))).accepted], [first.id])
      yield* wakeUpThat(wakeUps, isFor(queue))
      const between = yield* find(first.id)
      assert.deepStrictEqual([between.state, between.attempts, between.losses], ["PENDING", 0, 1])
      assert.deepStrictEqual(timeless(between), [{ attempt: 1, outcome: "Lost", worker, error: undefined }])
      const second = yield* claimOne(worker, queue)
      assert.deepStrictEqual([second.attempt, second.losses], [1, 1])
      yield* finish(worker, notStarted(second, lost))
      const message = "lost 2 workers while they held the task"
      const record = yield* find(first.id)
      assert.deepStrictEqual([record.state, record.attempts, record.losses], ["FAILED", 0, 2])
      assert.deepStrictEqual(record.outcome, failed("Lost", JSON.stringify(message)))
      assert.deepStrictEqual(timeless(record), [
        { attempt: 1, outcome: "Lost", worker, error: undefined },
        { attempt: 1, outcome: "Lost", worker, error: message }
      ])
    }))

  it.effect("a claim and a look-up tell how long an attempt may take", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      yield* send(newTask({ queue, timeout: 1234 }), newTask({ queue }))
      const [limited, free] = yield* claim(yield* startWorker, want(queue))
      assert.strictEqual(limited!.timeout, 1234)
      assert.isUndefined(free!.timeout)
      assert.strictEqual((yield* find(limited!.id)).timeout, 1234)
    }))

  it.effect("every attempt, interruption and loss of a task is kept in the order in which they ended", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      yield* send(newTask({ queue }))
      const ends: ReadonlyArray<AttemptEnd> = [
        { _tag: "Interrupted", why: "Shutdown" },
        retry(0, "Timeout"),
        { _tag: "Snoozed", delay: 0 },
        { _tag: "Interrupted", why: "LeaseLost" },
        retry(0, "Error"),
        completed()
      ]
      let id = ""
      for (const end of ends) {
        const hold = yield* claimOne(worker, queue)
        id = hold.id
        yield* finish(worker, ended(hold, end))
      }
      assert.deepStrictEqual((yield* find(id)).history.map(({ attempt, outcome }) => [attempt, outcome]), [
        [1, "Shutdown"],
        [1, "Timeout"],
        [2, "LeaseLost"],
        [2, "Error"],
        [3, "Completed"]
      ])
    }))
}
