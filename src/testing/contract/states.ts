/** The contract of snapshots: what heartbeats carry, and `workerStates`. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { Broker, type WorkerSnapshot } from "../../Broker.ts"
import type { It } from "./Harness.ts"
import { advance, leasePasses, now, recover, startWorker, sweep, uuid } from "./steps.ts"

const minute = 60_000

const snapshot = (running: number): WorkerSnapshot => ({
  queues: [{ queue: "mails", concurrency: 8, running, claimed: 2 }],
  running,
  claimed: 2,
  processes: [{ pid: 4711, running, memory: 50_000_000.5 }, { pid: undefined, running: 0, memory: undefined }],
  memory: 123_456_789_012,
  cpu: 0.25,
  settings: { concurrency: 8, lease: 30_000, module: "file:///häuser.ts" }
})

const beat = (worker: string, running: number) =>
  Broker.use((broker) => broker.heartbeat(worker, [], snapshot(running)))

const states = (worker?: string) => Broker.use((broker) => broker.workerStates(worker))

/** Those of these workers: others may have left some. */
const lastOf = (...workers: ReadonlyArray<string>) =>
  Effect.map(states(), (all) => all.filter(({ worker }) => workers.includes(worker)))

export const workerStates = (it: It) => {
  it.effect("a heartbeat with a snapshot is a heartbeat, and the snapshot is found with its worker and time", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      assert.deepStrictEqual(yield* states(worker), [])
      const before = yield* now
      assert.deepStrictEqual(yield* beat(worker, 3), { alive: true, cancelling: [] })
      const [state, ...others] = yield* states(worker)
      assert.lengthOf(others, 0)
      const { at, host, pid, ...rest } = state!
      assert.deepStrictEqual(rest, { ...snapshot(3), worker })
      assert.isAtLeast(at, before - 1)
      assert.isAtMost(at, yield* now)
      assert.isString(host)
      assert.isNumber(pid)
    }))

  it.effect("of one worker all are given, the last first; of all workers the last of each", () =>
    Effect.gen(function*() {
      const workers = [yield* startWorker, yield* startWorker]
      for (const running of [1, 2, 3]) {
        yield* advance(10)
        for (const worker of workers) yield* beat(worker, running)
      }
      for (const worker of workers) {
        assert.deepStrictEqual((yield* states(worker)).map(({ running }) => running), [3, 2, 1])
      }
      const last = yield* lastOf(...workers)
      assert.deepStrictEqual(last.map(({ running }) => running), [3, 3])
      assert.sameMembers(last.map(({ worker }) => worker), workers)
    }))

  it.effect("a worker that is not believed alive leaves none, but those from before stay", () =>
    Effect.gen(function*() {
      const [dead, left] = [yield* startWorker, yield* startWorker]
      yield* beat(dead, 1)
      yield* beat(left, 1)
      yield* Broker.use((broker) => broker.deregister(left))
      yield* leasePasses()
      yield* recover
      const unknown = uuid()
      for (const worker of [dead, left, unknown]) assert.isFalse((yield* beat(worker, 2)).alive)
      for (const worker of [dead, left]) {
        assert.deepStrictEqual((yield* states(worker)).map(({ running }) => running), [1])
      }
      assert.deepStrictEqual(yield* states(unknown), [])
    }))

  it.effect("they are kept for half an hour", () =>
    Effect.gen(function*() {
      const worker = yield* startWorker
      yield* beat(worker, 1)
      yield* advance(20 * minute)
      yield* beat(worker, 2)
      yield* advance(9 * minute)
      yield* sweep
      assert.deepStrictEqual((yield* states(worker)).map(({ running }) => running), [2, 1])
      yield* advance(2 * minute)
      yield* sweep
      assert.deepStrictEqual((yield* states(worker)).map(({ running }) => running), [2])
      yield* advance(20 * minute)
      yield* sweep
      assert.deepStrictEqual(yield* states(worker), [])
      assert.deepStrictEqual(yield* lastOf(worker), [])
    }))
}
