/** The contract of `whyNotRunning`. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { Broker, type WhyNotRunning } from "../../Broker.ts"
import type { It } from "./Harness.ts"
import {
  advance,
  assertWithin,
  cancel,
  claim,
  completed,
  configure,
  ended,
  failed,
  find,
  finish,
  handled,
  ids,
  leasePasses,
  newTask,
  newTasks,
  now,
  promoteAll,
  recover,
  register,
  send,
  sendAndClaim,
  startWorker,
  startWorkerFor,
  unique,
  uniqueQueue,
  uuid,
  want
} from "./steps.ts"

const why = (id: string) => Broker.use((broker) => broker.whyNotRunning(id))

const assertNothing = (answer: WhyNotRunning, ahead: number) =>
  assert.deepStrictEqual(answer, { _tag: "Nothing", ahead })

/** A queue of its own, and a name that a worker handles. */
const world = Effect.gen(function*() {
  const [queue, name] = [uniqueQueue(), unique("name")]
  return { queue, name, worker: yield* startWorkerFor(handled(queue, name)), all: want(queue, { names: [name] }) }
})

export const explaining = (it: It) => {
  it.effect("NotFound: there is no such task", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* why(uuid()), { _tag: "NotFound" })
      assert.deepStrictEqual(yield* why("no id"), { _tag: "NotFound" })
    }))

  it.effect("Ended: with the state and the time, whichever state that is", () =>
    Effect.gen(function*() {
      const { all, name, queue, worker } = yield* world
      const tasks = [
        ...newTasks(3, { queue, name }),
        newTask({ queue, name, due: { after: 60_000 }, goodUntil: { after: 60_000 } })
      ]
      yield* send(...tasks)
      const [one, two] = yield* claim(worker, { ...all, slots: 2 })
      yield* finish(worker, ended(one!, completed()), ended(two!, failed()))
      yield* cancel({ ids: [tasks[2]!.id] })
      yield* advance(60_001)
      yield* promoteAll(queue)
      for (const [i, state] of (["COMPLETED", "FAILED", "CANCELLED", "EXPIRED"] as const).entries()) {
        const { endedAt, id } = yield* find(tasks[i]!.id)
        assert.deepStrictEqual(yield* why(id), { _tag: "Ended", state, at: endedAt! })
      }
    }))

  it.effect("Claimed: with its holder", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      const { id } = yield* sendAndClaim(worker)
      assert.deepStrictEqual(yield* why(id), { _tag: "Claimed", worker })
    }))

  it.effect("NotDue: with its time, before anything that is in its way then", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      yield* configure(queue, { paused: true })
      const at = Math.round(yield* now) + 60_000
      const task = newTask({ queue, name: unique("name"), due: { at } })
      yield* send(task)
      assert.deepStrictEqual(yield* why(task.id), { _tag: "NotDue", dueAt: at })
    }))

  it.effect("Paused: with the queue, before NoWorker", () =>
    Effect.gen(function*() {
      const queue = uniqueQueue()
      yield* configure(queue, { paused: true })
      const task = newTask({ queue, name: unique("name") })
      yield* send(task)
      assert.deepStrictEqual(yield* why(task.id), { _tag: "Paused", queue })
      yield* configure(queue, { paused: false })
      assert.strictEqual((yield* why(task.id))._tag, "NoWorker")
    }))

  it.effect("NoWorker: nobody of its queue handles its name, or nobody does any longer", () =>
    Effect.gen(function*() {
      const [queue, name] = [uniqueQueue(), unique("name")]
      const task = newTask({ queue, name })
      yield* send(task)
      const noWorker = { _tag: "NoWorker", queue, name } as const
      yield* startWorkerFor(handled(queue, unique("name")))
      yield* startWorkerFor(handled(uniqueQueue(), name))
      assert.deepStrictEqual(yield* why(task.id), noWorker)
      // It knows the name from its second registration on.
      const leaves = yield* startWorker
      yield* register(leaves, handled(queue, "other"), handled(queue, name))
      assertNothing(yield* why(task.id), 0)
      yield* Broker.use((broker) => broker.deregister(leaves))
      assert.deepStrictEqual(yield* why(task.id), noWorker)
      yield* startWorkerFor(handled(queue, name))
      assertNothing(yield* why(task.id), 0)
      yield* leasePasses()
      yield* recover
      assert.deepStrictEqual(yield* why(task.id), noWorker)
    }))

  it.effect("NewerVersion: with the newest that a worker knows", () =>
    Effect.gen(function*() {
      const [queue, name] = [uniqueQueue(), unique("name")]
      const task = newTask({ queue, name, version: 5 })
      yield* send(task)
      yield* startWorkerFor(handled(queue, name, 3))
      yield* startWorkerFor(handled(queue, name, 2))
      assert.deepStrictEqual(yield* why(task.id), { _tag: "NewerVersion", version: 5, known: 3 })
      yield* startWorkerFor(handled(queue, name, 5))
      assertNothing(yield* why(task.id), 0)
    }))

  it.effect("Concurrency: of the queue, with those who are claimed", () =>
    Effect.gen(function*() {
      const { all, name, queue, worker } = yield* world
      yield* configure(queue, { limits: { concurrency: 2, perKey: { concurrency: 2 } } })
      yield* send(...newTasks(3, { queue, name, concurrencyKey: "a" }))
      const holders = ids(yield* claim(worker, all))
      const [waiting] = yield* Broker.use((broker) => broker.list({ queue }, { states: ["PENDING"] }))
      const answer = yield* why(waiting!.id)
      assert.isTrue(answer._tag === "Concurrency" && answer.limit === 2 && answer.concurrencyKey === undefined)
      assert.sameMembers(answer._tag === "Concurrency" ? [...answer.holders] : [], holders)
    }))

  it.effect("Concurrency: of the key, with those of the key who are claimed", () =>
    Effect.gen(function*() {
      const { all, name, queue, worker } = yield* world
      yield* configure(queue, { limits: { concurrency: 10, perKey: { concurrency: 1 } } })
      const tasks = ["a", "a", "b", "b", undefined].map((concurrencyKey) => newTask({ queue, name, concurrencyKey }))
      yield* send(...tasks)
      const claimed = yield* claim(worker, all)
      assert.lengthOf(claimed, 3)
      for (const key of ["a", "b"]) {
        const [held, waits] = tasks.filter(({ concurrencyKey }) => concurrencyKey === key)
        assert.deepStrictEqual(yield* why(waits!.id), {
          _tag: "Concurrency",
          limit: 1,
          concurrencyKey: key,
          holders: [held!.id]
        })
      }
    }))

  it.effect("Rate: of the queue or of the key, with the time at which it frees", () =>
    Effect.gen(function*() {
      const { all, name, queue, worker } = yield* world
      const rate = { limit: 1, per: 3_600_000 }
      yield* configure(queue, { limits: { rate } })
      const tasks = newTasks(2, { queue, name, concurrencyKey: "a" })
      yield* send(...tasks)
      assert.lengthOf(yield* claim(worker, all), 1)
      const ofQueue = yield* why(tasks[1]!.id)
      if (ofQueue._tag !== "Rate") return assert.fail(ofQueue._tag)
      assert.isUndefined(ofQueue.concurrencyKey)
      assertWithin(ofQueue.freeAt - (yield* now), rate.per)

      const other = yield* world
      yield* configure(other.queue, { limits: { perKey: { rate } } })
      const others = newTasks(2, { queue: other.queue, name: other.name, concurrencyKey: "a" })
      yield* send(...others)
      assert.lengthOf(yield* claim(other.worker, other.all), 1)
      const ofKey = yield* why(others[1]!.id)
      if (ofKey._tag !== "Rate") return assert.fail(ofKey._tag)
      assert.strictEqual(ofKey.concurrencyKey, "a")
      assertWithin(ofKey.freeAt - (yield* now), rate.per)
      yield* advance(rate.per + 1)
      yield* Broker.use((broker) => broker.heartbeat(other.worker, []))
      assertNothing(yield* why(others[1]!.id), 0)
    }))

  it.effect("Nothing: with the more urgent tasks that wait too, of the same queue, name and key", () =>
    Effect.gen(function*() {
      const { name, queue } = yield* world
      const task = newTask({ queue, name, priority: 50, concurrencyKey: "a" })
      const same = { queue, name, concurrencyKey: "a" }
      yield* send(
        ...newTasks(2, { ...same, priority: 1 }),
        ...newTasks(1, { ...same, priority: 50, due: { at: Math.round(yield* now) - 60_000 } }),
        task,
        ...newTasks(4, { ...same, priority: 51 }),
        ...newTasks(5, { ...same, priority: 1, due: { after: 60_000 } }),
        ...newTasks(6, { ...same, priority: 1, name: "other" }),
        ...newTasks(7, { ...same, priority: 1, queue: uniqueQueue() }),
        ...newTasks(8, { ...same, priority: 1, concurrencyKey: "b" })
      )
      assertNothing(yield* why(task.id), 3)
    }))

  it.effect("Nothing: more than 1,000 tasks are not counted", () =>
    Effect.gen(function*() {
      const { name, queue } = yield* world
      const task = newTask({ queue, name })
      yield* send(...newTasks(1200, { queue, name, priority: 1 }), task)
      assertNothing(yield* why(task.id), 1000)
    }))
}
