/** The contract of `cancel`: what waits ends at once, what is claimed by its holder. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { type AttemptEnd, Broker, type EndState, type TaskRecord } from "../../Broker.ts"
import type { It } from "./Harness.ts"
import {
  cancel,
  claim,
  claimOne,
  completed,
  ended,
  failed,
  find,
  finish,
  heartbeat,
  ids,
  leasePasses,
  newTask,
  notStarted,
  outcome,
  promote,
  recover,
  release,
  retry,
  send,
  sendAndClaim,
  startWorker,
  subscribe,
  timeless,
  uniqueQueue,
  uuid,
  wakeUpThat,
  want
} from "./steps.ts"

const cancelled = { _tag: "Cancelled" } as const

/** Claims a task under a new worker and asks for its cancellation. */
const claimAndCancel = Effect.fnUntraced(function*(queue: string) {
  const worker = yield* startWorker
  const hold = yield* sendAndClaim(worker, { queue })
  assert.deepStrictEqual(yield* cancel({ ids: [hold.id] }), { cancelled: [], requested: [hold.id] })
  return { hold, worker }
})

/** What is left of a task that ended in one way or another. */
const remains = ({ attempts, cancelling, losses, state }: TaskRecord) => ({ attempts, cancelling, losses, state })

export const cancelling = (it: It) => {
  it.effect("a waiting task is CANCELLED at once, ready or delayed, and who awaits it is told", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const tasks = [newTask({ queue }), newTask({ queue, due: { after: 60_000 } })]
      const other = newTask({ queue })
      yield* send(...tasks, other)
      const waiting = yield* Effect.forkChild(
        Effect.all(tasks.map(({ id }) => outcome(id)), { concurrency: "unbounded" }),
        { startImmediately: true }
      )
      const result = yield* cancel({ ids: ids(tasks) })
      assert.sameMembers([...result.cancelled], ids(tasks))
      assert.deepStrictEqual(result.requested, [])
      assert.deepStrictEqual(yield* Effect.timeout(Fiber.join(waiting), "2 seconds"), [cancelled, cancelled])
      for (const { id } of tasks) {
        const record = yield* find(id)
        assert.deepStrictEqual(remains(record), { attempts: 0, cancelling: false, losses: 0, state: "CANCELLED" })
        assert.deepStrictEqual(record.history, [])
        assert.isDefined(record.endedAt)
        assert.deepStrictEqual(yield* outcome(id), cancelled)
      }
      assert.isUndefined(yield* promote(queue))
      assert.deepStrictEqual(ids(yield* claim(yield* startWorker, want(queue))), [other.id])
    }))

  it.effect("the holder of a claimed task is told: by a wake-up, and by its heartbeats until it has ended", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const [holder, other] = [yield* startWorker, yield* startWorker]
      yield* send(newTask({ queue, priority: 1 }), newTask({ queue }))
      const [hold, spared] = yield* claim(holder, want(queue))
      assert.deepStrictEqual(yield* heartbeat(holder), { alive: true, cancelling: [] })
      const wakeUps = yield* subscribe
      assert.deepStrictEqual(yield* cancel({ ids: [hold!.id] }), { cancelled: [], requested: [hold!.id] })
      yield* wakeUpThat(wakeUps, (wakeUp) => wakeUp._tag === "Cancel" && wakeUp.ids.includes(hold!.id))
      for (let i = 0; i < 2; i++) {
        assert.deepStrictEqual(yield* heartbeat(holder), { alive: true, cancelling: [hold!.id] })
      }
      assert.deepStrictEqual(yield* heartbeat(other), { alive: true, cancelling: [] })
      const record = yield* find(hold!.id)
      assert.deepStrictEqual(remains(record), { attempts: 0, cancelling: true, losses: 0, state: "CLAIMED" })
      assert.strictEqual(record.worker, holder)
      assert.isFalse((yield* find(spared!.id)).cancelling)
      yield* finish(holder, ended(hold!, cancelled))
      assert.deepStrictEqual(yield* heartbeat(holder), { alive: true, cancelling: [] })
    }))

  it.effect("asking again for the cancellation of a claimed task tells its holder again", () =>
    Effect.gen(function*() {
      const { hold } = yield* claimAndCancel(uniqueQueue())
      const wakeUps = yield* subscribe
      assert.deepStrictEqual(yield* cancel({ ids: [hold.id] }), { cancelled: [], requested: [hold.id] })
      yield* wakeUpThat(wakeUps, (wakeUp) => wakeUp._tag === "Cancel" && wakeUp.ids.includes(hold.id))
    }))

  const ends: Readonly<
    Record<string, readonly [AttemptEnd, EndState, attempts: number, recorded: ReadonlyArray<string>]>
  > = {
    "was cancelled": [cancelled, "CANCELLED", 1, ["Cancelled"]],
    "had completed before": [completed("1"), "COMPLETED", 1, ["Completed"]],
    "had failed before": [failed("Defect", "1"), "FAILED", 1, ["Defect"]],
    "came too late to start": [{ _tag: "Expired" }, "EXPIRED", 0, []],
    "would be tried again": [retry(60_000, "Timeout", "1"), "CANCELLED", 1, ["Timeout"]],
    "was snoozed": [{ _tag: "Snoozed", delay: 60_000 }, "CANCELLED", 0, []],
    "was interrupted": [{ _tag: "Interrupted", why: "Shutdown" }, "CANCELLED", 0, ["Shutdown"]]
  }
  for (const [what, [end, state, attempts, recorded]] of Object.entries(ends)) {
    it.effect(`an attempt that ${what} ends a task that is to be cancelled ${state}`, () =>
      Effect.gen(function*() {
        const queue = uniqueQueue()
        const { hold, worker } = yield* claimAndCancel(queue)
        const waiting = yield* Effect.forkChild(outcome(hold.id), { startImmediately: true })
        const attempt = end._tag === "Expired" ? notStarted(hold, end) : ended(hold, end)
        const { accepted } = yield* finish(worker, attempt)
        assert.deepStrictEqual([...accepted], [hold.id])
        const record = yield* find(hold.id)
        assert.deepStrictEqual(remains(record), { attempts, cancelling: false, losses: 0, state })
        assert.deepStrictEqual(record.history.map(({ outcome }) => outcome), recorded)
        assert.deepStrictEqual(record.outcome, yield* Effect.timeout(Fiber.join(waiting), "2 seconds"))
        assert.deepStrictEqual(yield* claim(worker, want(queue)), [])
        assert.isUndefined(yield* promote(queue))
      }))
  }

  it.effect("a task that is to be cancelled ends CANCELLED when it is released", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const { hold, worker } = yield* claimAndCancel(queue)
      const waiting = yield* Effect.forkChild(outcome(hold.id), { startImmediately: true })
      yield* release(worker, hold)
      assert.deepStrictEqual(yield* Effect.timeout(Fiber.join(waiting), "2 seconds"), cancelled)
      const record = yield* find(hold.id)
      assert.deepStrictEqual(remains(record), { attempts: 0, cancelling: false, losses: 0, state: "CANCELLED" })
      assert.deepStrictEqual(record.history, [])
      assert.deepStrictEqual(yield* claim(worker, want(queue)), [])
    }))

  for (const maxLosses of [3, 1]) {
    it.effect(`a task that is to be cancelled ends CANCELLED when its worker is lost, of ${maxLosses} that may be`, () =>
      Effect.gen(function*() {
        yield* recover
        const queue = uniqueQueue()
        const worker = yield* startWorker
        const hold = yield* sendAndClaim(worker, { queue, maxLosses })
        yield* cancel({ ids: [hold.id] })
        const waiting = yield* Effect.forkChild(outcome(hold.id), { startImmediately: true })
        yield* leasePasses()
        assert.deepStrictEqual(yield* recover, { workers: 1, released: 0, failed: 0 })
        assert.deepStrictEqual(yield* Effect.timeout(Fiber.join(waiting), "2 seconds"), cancelled)
        const record = yield* find(hold.id)
        assert.deepStrictEqual(remains(record), { attempts: 0, cancelling: false, losses: 1, state: "CANCELLED" })
        assert.deepStrictEqual(timeless(record), [{ attempt: 1, outcome: "Lost", worker, error: undefined }])
        assert.deepStrictEqual(yield* claim(yield* startWorker, want(queue)), [])
      }))
  }

  it.effect("a task that is to be cancelled ends CANCELLED when the process died that ran it", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const { hold, worker } = yield* claimAndCancel(queue)
      yield* finish(worker, ended(hold, { _tag: "Lost" }))
      const record = yield* find(hold.id)
      assert.deepStrictEqual(remains(record), { attempts: 0, cancelling: false, losses: 1, state: "CANCELLED" })
      assert.deepStrictEqual(timeless(record), [{ attempt: 1, outcome: "Lost", worker, error: undefined }])
      assert.deepStrictEqual(yield* claim(worker, want(queue)), [])
    }))

  it.effect("a worker may end a task CANCELLED that has not started: no attempt is counted or recorded", () =>
    Effect.gen(function*() {
      const { hold, worker } = yield* claimAndCancel(uniqueQueue())
      yield* finish(worker, notStarted(hold, cancelled))
      const record = yield* find(hold.id)
      assert.deepStrictEqual(remains(record), { attempts: 0, cancelling: false, losses: 0, state: "CANCELLED" })
      assert.deepStrictEqual(record.history, [])
    }))

  it.effect("what has ended is left as it is, and what was never sent is no error", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      const hold = yield* sendAndClaim(worker)
      yield* finish(worker, ended(hold, completed("1")))
      const before = yield* find(hold.id)
      assert.deepStrictEqual(yield* cancel({ ids: [hold.id, uuid(), "no id"] }), { cancelled: [], requested: [] })
      assert.deepStrictEqual(yield* cancel({ ids: [] }), { cancelled: [], requested: [] })
      assert.deepStrictEqual(yield* find(hold.id), before)
    }))

  it.effect("a task that waits again after its hold was taken away can be cancelled like any other", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      const hold = yield* sendAndClaim(worker, { queue })
      yield* finish(worker, ended(hold, retry(0)))
      assert.deepStrictEqual(yield* cancel({ ids: [hold.id] }), { cancelled: [hold.id], requested: [] })
      assert.strictEqual((yield* find(hold.id)).attempts, 1)
    }))

  it.effect("a cancellation and a completion at the same time leave one outcome", () =>
    Effect.gen(function*() {
      for (let i = 0; i < 10; i++) {
        const worker = yield* startWorker
        const hold = yield* sendAndClaim(worker)
        yield* Effect.all([cancel({ ids: [hold.id] }), finish(worker, ended(hold, completed("1")))], {
          concurrency: "unbounded"
        })
        assert.deepStrictEqual(yield* outcome(hold.id), { _tag: "Completed", value: "1" })
      }
    }))

  it.effect("a cancellation and a claim at the same time leave the task cancelled, or held and to be cancelled", () =>
    Effect.gen(function*() {
      const broker = yield* Broker
      for (let i = 0; i < 10; i++) {
        const queue = uniqueQueue()
        const worker = yield* startWorker
        const task = newTask({ queue })
        yield* send(task)
        const [result, claimed] = yield* Effect.all([cancel({ ids: [task.id] }), claim(worker, want(queue))], {
          concurrency: "unbounded"
        })
        assert.lengthOf([...result.cancelled, ...result.requested], 1)
        assert.deepStrictEqual(ids(claimed), result.requested)
        assert.deepStrictEqual((yield* broker.heartbeat(worker, [])).cancelling, result.requested)
      }
    }))

  it.effect("a retry of another task in the same step is not cancelled with it", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      const worker = yield* startWorker
      yield* send(newTask({ queue }), newTask({ queue }))
      const [one, two] = yield* claim(worker, want(queue))
      yield* cancel({ ids: [one!.id] })
      yield* finish(worker, ended(one!, retry(0)), ended(two!, retry(0)))
      assert.strictEqual((yield* claimOne(worker, queue)).id, two!.id)
    }))
}
