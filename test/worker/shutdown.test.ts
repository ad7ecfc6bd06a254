/** How a whole worker ends, and what it says of itself meanwhile. */
import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import { Broker, type WorkerSnapshot } from "../../src/Broker.ts"
import * as MemoryBroker from "../../src/MemoryBroker.ts"
import * as Worker from "../../src/Worker.ts"
import { memoryBut, unavailable } from "../support/brokers.ts"
import { eventually } from "../support/eventually.ts"
import { outcomes, quick, record } from "../support/worker.ts"
import { Act } from "./children/module.ts"
import { Echo, Held } from "./tasks.ts"

/** Two layers of handlers, one on top of the other: they close one after the other. */
const stacked = Effect.gen(function*() {
  const started = yield* Queue.unbounded<number>()
  const go = yield* Deferred.make<void>()
  const echoes: Array<string> = []
  const held = Held.toLayer(({ n }) =>
    n === 0 ? Effect.succeed(n) : Queue.offer(started, n).pipe(Effect.andThen(Deferred.await(go)), Effect.as(n))
  )
  const echo = Echo.toLayer(({ text }) =>
    Effect.sync(() => {
      echoes.push(text)
      return text
    })
  )
  return { started, go, echoes, handlers: Layer.provideMerge(held, echo) }
})

/** Each test has a broker of its own. */
const fresh = Effect.provide(Layer.fresh(MemoryBroker.layer))

const build = (handlers: Layer.Layer<never, never, Layer.Success<ReturnType<typeof Worker.layer>>>, options = quick) =>
  Effect.map(
    Layer.build(Layer.fresh(Layer.provideMerge(handlers, Worker.layer(options)))),
    (context) => Context.get(context, Worker.Worker)
  )

describe("a worker that is shut down", () => {
  it.live("stops claims under every name at once, while it waits for what runs", () =>
    Effect.gen(function*() {
      const { echoes, go, handlers, started } = yield* stacked
      const worker = yield* build(handlers)
      const handle = yield* Held.send({ n: 1 })
      yield* Queue.take(started)
      const shutdown = yield* Effect.forkChild(worker.shutdown, { startImmediately: true })
      assert.isTrue((yield* worker.status).stopping)
      const late = yield* Echo.send({ text: "late" })
      yield* Deferred.succeed(go, undefined)
      yield* Fiber.join(shutdown)
      assert.strictEqual((yield* record(handle.id)).state, "COMPLETED")
      assert.strictEqual((yield* record(late.id)).state, "PENDING")
      assert.deepStrictEqual(echoes, [])
      // It is over for good, and still alive.
      yield* worker.shutdown
      const { alive, running, stopping } = yield* worker.status
      assert.deepStrictEqual({ alive, running, stopping }, { alive: true, running: 0, stopping: true })
    }).pipe(fresh))

  it.live("hands back at once what it holds ready, before what runs has ended", () =>
    Effect.gen(function*() {
      const { go, handlers, started } = yield* stacked
      const worker = yield* build(handlers, { ...quick, concurrency: 1 })
      // So fast that it claims ahead.
      yield* Effect.forEach(Array.from({ length: 200 }), () => Held.send({ n: 0 }), { concurrency: 200 }).pipe(
        Effect.flatMap(Effect.forEach((handle) => handle.await))
      )
      // One claim brings all of them.
      yield* Held.sendMany([{ n: 1 }, { n: 2 }, { n: 3 }])
      yield* Queue.take(started)
      assert.deepInclude(yield* worker.status, { running: 1, claimed: 2 })
      const shutdown = yield* Effect.forkChild(worker.shutdown, { startImmediately: true })
      assert.deepInclude(yield* worker.status, { running: 1, claimed: 0 })
      const broker = yield* Broker
      const waiting = broker.list({ queue: "held" }, { states: ["PENDING"] })
      const handedBack = yield* Effect.repeat(Effect.delay(waiting, Duration.millis(5)), {
        until: (records) => records.length === 2
      })
      assert.deepStrictEqual(handedBack.map(({ attempts, losses }) => [attempts, losses]), [[0, 0], [0, 0]])
      yield* Deferred.succeed(go, undefined)
      yield* Fiber.join(shutdown)
      assert.lengthOf(yield* waiting, 2)
      assert.lengthOf(yield* broker.list({ queue: "held" }, { states: ["CLAIMED"] }), 0)
    }).pipe(fresh))

  it.live("interrupts at once what runs when it has to hurry, and loses nothing", () =>
    Effect.gen(function*() {
      const { handlers, started } = yield* stacked
      const worker = yield* build(handlers, { ...quick, shutdownTimeout: "1 hour" })
      const handle = yield* Held.send({ n: 1 })
      yield* Queue.take(started)
      const shutdown = yield* Effect.forkChild(worker.shutdown, { startImmediately: true })
      assert.strictEqual((yield* worker.status).running, 1)
      yield* worker.shutdownNow
      yield* Fiber.join(shutdown)
      const { attempts, losses, state } = yield* record(handle.id)
      assert.deepStrictEqual({ attempts, losses, state }, { attempts: 0, losses: 0, state: "PENDING" })
      assert.deepStrictEqual(yield* outcomes(handle.id), ["Shutdown"])
    }).pipe(fresh))

  it.live("interrupts at once what runs when it has to hurry, also while the broker does not answer", () => {
    let away = false
    const [asked, back] = [Effect.runSync(Deferred.make<void>()), Effect.runSync(Deferred.make<void>())]
    return Effect.gen(function*() {
      const [started, interrupted] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      const handlers = Held.toLayer(() =>
        Deferred.succeed(started, undefined).pipe(
          Effect.andThen(Effect.never),
          Effect.onInterrupt(() => Deferred.succeed(interrupted, undefined))
        )
      )
      const worker = yield* build(handlers, { ...quick, concurrency: 2, shutdownTimeout: "1 hour" })
      const handle = yield* Held.send({ n: 1 })
      yield* Deferred.await(started)
      away = true
      yield* Held.send({ n: 2 })
      yield* Deferred.await(asked)
      const shutdown = yield* Effect.forkChild(worker.shutdown, { startImmediately: true })
      const hurried = yield* Effect.forkChild(worker.shutdownNow, { startImmediately: true })
      yield* Deferred.await(interrupted)
      yield* Deferred.succeed(back, undefined)
      yield* Fiber.join(shutdown)
      yield* Fiber.join(hurried)
      assert.deepStrictEqual(yield* outcomes(handle.id), ["Shutdown"])
      const pending = yield* Broker.use((broker) => broker.list({ queue: "held" }, { states: ["PENDING"] }))
      assert.lengthOf(pending, 2)
    }).pipe(
      Effect.provide(memoryBut((broker) => ({
        claim: (worker, wants) =>
          Effect.suspend(() =>
            away
              ? Deferred.succeed(asked, undefined).pipe(
                Effect.andThen(Deferred.await(back)),
                Effect.andThen(broker.claim(worker, wants))
              )
              : broker.claim(worker, wants)
          )
      })))
    )
  })

  it.live("is shut down as a whole when the program that launched it is interrupted", () =>
    Effect.gen(function*() {
      const { echoes, go, handlers, started } = yield* stacked
      const program = yield* Layer.provideMerge(handlers, Worker.layer(quick)).pipe(
        Layer.fresh,
        Worker.launch,
        Effect.forkChild({ startImmediately: true })
      )
      const handle = yield* Held.send({ n: 1 })
      yield* Queue.take(started)
      const interruption = yield* Effect.forkChild(Fiber.interrupt(program), { startImmediately: true })
      const late = yield* Echo.send({ text: "late" })
      yield* Deferred.succeed(go, undefined)
      yield* Fiber.join(interruption)
      assert.deepStrictEqual(yield* outcomes(handle.id), ["Completed"])
      assert.strictEqual((yield* record(late.id)).state, "PENDING")
      assert.deepStrictEqual(echoes, [])
    }).pipe(fresh))
})

describe("what a worker says of itself", () => {
  it.live("is that it is not alive when a part of it has died", () =>
    Effect.gen(function*() {
      const worker = yield* build(Held.toLayer(({ n }) => Effect.succeed(n)))
      yield* Effect.repeat(Effect.delay(worker.status, Duration.millis(5)), { until: ({ alive }) => !alive })
    }).pipe(Effect.provide(memoryBut(() => ({
      promote: () => {
        throw new Error("not even an effect")
      }
    })))))

  it.live("is stored every third heartbeat: what runs and what it was started with", () =>
    Effect.gen(function*() {
      const { go, handlers, started } = yield* stacked
      const broker = yield* Broker
      const seen: Array<WorkerSnapshot | undefined> = []
      const watched = Broker.of({
        ...broker,
        heartbeat: (worker, running, snapshot) => {
          seen.push(snapshot)
          return broker.heartbeat(worker, running, snapshot)
        }
      })
      const options = { heartbeatInterval: "100 millis", lease: "10 seconds", concurrency: 3 } as const
      const worker = yield* Effect.provideService(build(handlers, options), Broker, watched)
      yield* Held.send({ n: 1 })
      yield* Queue.take(started)
      yield* eventually("seven heartbeats", () => seen.length >= 7)
      const { id } = yield* worker.status
      assert.deepStrictEqual(
        seen.slice(0, 7).map((snapshot) => snapshot !== undefined),
        [true, false, false, true, false, false, true]
      )
      const [state] = yield* broker.workerStates(id)
      assert.deepStrictEqual(state?.queues.toSorted((a, b) => a.queue < b.queue ? -1 : 1), [
        { queue: "default", concurrency: 3, running: 0, claimed: 0 },
        { queue: "held", concurrency: 3, running: 1, claimed: 0 }
      ])
      assert.deepStrictEqual([state?.running, state?.claimed, state?.processes], [1, 0, []])
      assert.strictEqual(state?.pid, process.pid)
      assert.isAbove(state?.memory ?? 0, 10_000_000)
      assert.isAbove(state?.cpu ?? 0, 0)
      assert.deepStrictEqual(state?.settings, {
        concurrency: 3,
        heartbeatInterval: 100,
        lease: 10_000,
        shutdownTimeout: 30_000
      })
      yield* Deferred.succeed(go, undefined)
    }).pipe(fresh))

  it.live("names its child processes, and what runs in them", () =>
    Effect.gen(function*() {
      const broker = yield* Broker
      const module = new URL("children/module.ts", import.meta.url)
      const options = {
        ...quick,
        heartbeatInterval: "50 millis",
        lease: "30 seconds",
        processes: { module, count: 1 }
      } as const
      const worker = Context.get(yield* Layer.build(Layer.fresh(Worker.layer(options))), Worker.Worker)
      yield* Act.send({ what: "never" })
      const state = broker.workerStates((yield* worker.status).id).pipe(Effect.map(([last]) => last))
      const busy = yield* Effect.repeat(Effect.delay(state, Duration.millis(20)), {
        until: (state) => state !== undefined && state.processes.some(({ running }) => running === 1)
      })
      assert.strictEqual(busy?.running, 1)
      assert.deepInclude(busy?.settings, { processes: 1, module: module.href })
      assert.isFalse(busy?.processes.some(({ pid }) => pid === process.pid))
      yield* worker.shutdownNow
      yield* Effect.repeat(Effect.delay(state, Duration.millis(20)), {
        until: (state) => state !== undefined && state.running === 0
      })
    }).pipe(fresh), 60_000)
})

const silent = memoryBut(() => ({ heartbeat: () => Effect.fail(unavailable) }))

describe("a worker whose heartbeats fail", () => {
  it.live("says that it is not alive when it cannot prove its lease, and comes back under a new id", () =>
    Effect.gen(function*() {
      const broker = yield* Broker
      const back = yield* Deferred.make<void>()
      let registrations = 0
      const slow = Broker.of({
        ...broker,
        register: (start) => {
          const first = registrations++ === 0
          return first ? broker.register(start) : Effect.andThen(Deferred.await(back), broker.register(start))
        }
      })
      const worker = yield* Effect.provideService(
        build(Layer.empty, { heartbeatInterval: "50 millis", lease: "200 millis", shutdownTimeout: "1 second" }),
        Broker,
        slow
      )
      const before = yield* worker.status
      assert.isTrue(before.alive)
      yield* Effect.repeat(Effect.delay(worker.status, Duration.millis(5)), { until: ({ alive }) => !alive })
      yield* Deferred.succeed(back, undefined)
      const after = yield* Effect.repeat(Effect.delay(worker.status, Duration.millis(5)), {
        until: ({ alive }) => alive
      })
      assert.notStrictEqual(after.id, before.id)
    }).pipe(Effect.provide(silent)))
})
