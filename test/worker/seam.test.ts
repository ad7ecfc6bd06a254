/** What a worker makes of answers that a broker gives rarely: over a broker in memory that gives them on purpose. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import * as TestClock from "effect/testing/TestClock"
import {
  type AttemptEnd,
  Broker,
  type BrokerError,
  type Claims,
  type Hold,
  type WakeUp,
  type WorkerStart
} from "../../src/Broker.ts"
import * as MemoryBroker from "../../src/MemoryBroker.ts"
import * as Task from "../../src/Task.ts"
import * as Worker from "../../src/Worker.ts"
import { memoryBut, refused, unavailable } from "../support/brokers.ts"
import { outcomes, quick, record, start } from "../support/worker.ts"
import { Echo, Held, Slow } from "./tasks.ts"

const alone = { ...quick, concurrency: 1 }

/** Starts a worker that runs `Held` in transactions, one at a time. */
const startTransactional = (handler: (payload: { readonly n: number }) => Effect.Effect<number>) =>
  start(Layer.orDie(Held.toLayer(handler, { transaction: true })), alone)

describe("a worker", () => {
  it.live("makes known what it handles, also what comes later", () => {
    const known = Effect.runSync(Queue.unbounded<WorkerStart>())
    return Effect.gen(function*() {
      yield* start(Layer.merge(
        Echo.toLayer(({ text }) => Effect.succeed(text)),
        Slow.toLayer(({ until }) => Effect.succeed(until))
      ))
      const worker = yield* Effect.repeat(Queue.take(known), { until: ({ handles }) => handles.length === 2 })
      assert.deepStrictEqual(worker.handles.toSorted((a, b) => a.name < b.name ? -1 : 1), [
        {
          name: "Echo",
          version: 1,
          queue: "default",
          priority: 100,
          timeout: undefined,
          maxLosses: 3,
          retention: undefined,
          idempotencyWindow: 86_400_000
        },
        {
          name: "Slow",
          version: 1,
          queue: "slow",
          priority: 100,
          timeout: 30,
          maxLosses: 3,
          retention: undefined,
          idempotencyWindow: 86_400_000
        }
      ])
      // The same start, not another one.
      yield* Effect.flatMap(Echo.send({ text: "known" }), (handle) => handle.await)
    }).pipe(
      Effect.scoped,
      Effect.provide(memoryBut((broker) => ({
        register: (worker) =>
          Effect.andThen(Effect.sync(() => Queue.offerUnsafe(known, worker)), broker.register(worker))
      })))
    )
  })

  it.live("sets the limits of its queues before it claims, and leaves other queues alone", () => {
    const set: Array<unknown> = []
    return Effect.gen(function*() {
      yield* start(Held.toLayer(({ n }) => Effect.succeed(n)), {
        ...quick,
        queues: {
          held: {
            concurrency: 2,
            limits: {
              concurrency: 7,
              rate: { limit: 10, per: "1 minute" },
              perKey: { concurrency: 1, rate: { limit: 1, per: "1 second", burst: 3 } }
            }
          },
          slow: { concurrency: 1 }
        }
      })
      assert.deepStrictEqual(set, [["held", {
        limits: {
          concurrency: 7,
          rate: { limit: 10, per: 60_000 },
          perKey: { concurrency: 1, rate: { limit: 1, per: 1000, burst: 3 } }
        }
      }]])
    }).pipe(
      Effect.scoped,
      Effect.provide(memoryBut((broker) => ({
        configureQueue: (queue, settings) =>
          Effect.andThen(Effect.sync(() => set.push([queue, settings])), broker.configureQueue(queue, settings))
      })))
    )
  })

  it.effect("refuses limits that make no sense", () =>
    Effect.gen(function*() {
      for (
        const [limits, option] of [
          [{ concurrency: 0 }, "queues.held.limits.concurrency"],
          [{ rate: { limit: 1.5, per: "1 second" } }, "queues.held.limits.rate.limit"],
          [{ rate: { limit: 1, per: 0 } }, "queues.held.limits.rate.per"],
          [{ perKey: { rate: { limit: 1, per: 1, burst: 0 } } }, "queues.held.limits.perKey.rate.burst"]
        ] as ReadonlyArray<[Worker.Limits, string]>
      ) {
        const exit = yield* Effect.exit(Effect.scoped(Layer.build(Worker.layer({ queues: { held: { limits } } }))))
        assert.include(Exit.isFailure(exit) ? String(exit.cause) : "", option)
      }
    }).pipe(Effect.provide(MemoryBroker.layer)))

  it.live("claims again at once when the broker says that there may be more than it gave", () => {
    let running = 0
    const all = Effect.runSync(Deferred.make<void>())
    return Effect.gen(function*() {
      const handles = yield* Effect.forEach([1, 2, 3], (n) => Held.send({ n }))
      yield* start(
        Held.toLayer(({ n }) =>
          Effect.suspend(() => ++running === 3 ? Deferred.succeed(all, undefined) : Deferred.await(all)).pipe(
            Effect.as(n)
          )
        ),
        { ...quick, concurrency: 3 }
      )
      assert.deepStrictEqual(yield* Effect.forEach(handles, (handle) => handle.await), [1, 2, 3])
    }).pipe(
      Effect.timeout("3 seconds"),
      Effect.scoped,
      Effect.provide(memoryBut((broker) => ({
        claim: (worker, wants) =>
          Effect.map(
            broker.claim(worker, wants.map((want) => ({ ...want, slots: Math.min(1, want.slots), ahead: 0 }))),
            ({ full, tasks }) => ({ tasks, again: new Map(tasks.map(({ queue }) => [queue, 0])), full })
          )
      })))
    )
  })

  it.live("interrupts what a heartbeat says is to be cancelled", () => {
    const started = Effect.runSync(Deferred.make<string>())
    return Effect.gen(function*() {
      yield* start(
        Held.toLayer(() =>
          Effect.flatMap(Task.CurrentTask, ({ id }) => Effect.andThen(Deferred.succeed(started, id), Effect.never))
        )
      )
      const handle = yield* Held.send({ n: 1 })
      assert.instanceOf(yield* Effect.flip(handle.await), Task.TaskCancelled)
      assert.deepStrictEqual(yield* outcomes(handle.id), ["Cancelled"])
    }).pipe(
      Effect.scoped,
      Effect.provide(memoryBut((broker) => ({
        heartbeat: (worker, running) =>
          Effect.map(
            broker.heartbeat(worker, running),
            (beat) => ({ ...beat, cancelling: running.map(({ id }) => id) })
          )
      })))
    )
  })

  it.live("records that it was a lost lease, and counts no attempt", () => {
    let runs = 0
    let beats = 0
    return Effect.gen(function*() {
      yield* start(Held.toLayer(({ n }) => Effect.suspend(() => ++runs === 1 ? Effect.never : Effect.succeed(n))))
      const handle = yield* Held.send({ n: 6 })
      assert.strictEqual(yield* handle.await, 6)
      assert.deepStrictEqual(yield* outcomes(handle.id), ["LeaseLost", "Completed"])
      assert.strictEqual((yield* record(handle.id)).attempts, 1)
    }).pipe(
      Effect.scoped,
      Effect.provide(memoryBut((broker) => ({
        heartbeat: (worker, running) =>
          Effect.map(broker.heartbeat(worker, running), (beat) => ({ ...beat, alive: ++beats > 1 }))
      })))
    )
  })

  it.live("gives a slot to nobody else while a handler does not end in spite of its timeout", () => {
    const runs: Array<number> = []
    const go = Effect.runSync(Deferred.make<void>())
    return Effect.gen(function*() {
      yield* start(
        Layer.merge(
          Held.toLayer(({ n }) =>
            Effect.sync(() => runs.push(n)).pipe(
              Effect.andThen(n === 1 ? Effect.uninterruptible(Deferred.await(go)) : Effect.void),
              Effect.as(n)
            )
          ),
          Slow.toLayer(() => Effect.never)
        ),
        alone
      )
      const first = yield* Held.send({ n: 1 }, { timeout: "10 millis" })
      const second = yield* Held.send({ n: 2 })
      // The keeper of the timeouts deals with the first one first.
      const later = yield* Slow.send({ until: 1 }, { timeout: "20 millis" })
      assert.instanceOf(yield* Effect.flip(later.await), Task.TaskTimedOut)
      assert.deepStrictEqual(runs, [1])
      assert.strictEqual((yield* record(first.id)).state, "CLAIMED")
      yield* Deferred.succeed(go, undefined)
      assert.instanceOf(yield* Effect.flip(first.await), Task.TaskTimedOut)
      assert.strictEqual(yield* second.await, 2)
    }).pipe(Effect.scoped, Effect.provide(Layer.fresh(MemoryBroker.layer)))
  })
})

/** A broker that claims ahead whatever there is, and whose claims can be looked at before they are answered. */
const claimingAhead = (onClaim: (broker: Broker["Service"], claims: Claims) => Effect.Effect<Claims, BrokerError>) =>
  memoryBut((broker) => ({
    claim: (worker, wants) =>
      Effect.flatMap(
        broker.claim(worker, wants.map((want) => ({ ...want, ahead: 10 }))),
        (claims) => claims.tasks.length === 0 ? Effect.succeed(claims) : onClaim(broker, claims)
      ),
    // Apart from the finish, so that every claim comes by above.
    finish: (worker, attempts) => broker.finish(worker, attempts, [])
  }))

describe("tasks that are held ready", () => {
  const started = () => Effect.runSync(Deferred.make<void>())

  /** The first task runs until it is cancelled, or until it may go on. */
  const handler = (running: Deferred.Deferred<void>, go: Deferred.Deferred<void>, ran: Array<number>) =>
    Held.toLayer(({ n }) =>
      Effect.sync(() => ran.push(n)).pipe(
        Effect.andThen(Deferred.succeed(running, undefined)),
        Effect.andThen(Deferred.await(go)),
        Effect.as(n)
      )
    )

  it.live("make full batches, once all slots of the last one are free", () => {
    const seen: Array<ReadonlyArray<number>> = []
    return Effect.gen(function*() {
      const handles = yield* Effect.forEach([1, 2, 3, 4, 5, 6], (n) => Held.send({ n }))
      yield* start(
        Held.toBatchLayer((batch) => {
          seen.push(batch.map(({ payload }) => payload.n))
          return Effect.as(Effect.yieldNow, batch.map(({ payload }) => Exit.succeed(payload.n)))
        }, { size: 2 }),
        { ...quick, concurrency: 2 }
      )
      yield* Effect.forEach(handles, (handle) => handle.await)
      assert.deepStrictEqual(seen, [[1, 2], [3, 4], [5, 6]])
    }).pipe(Effect.scoped, Effect.provide(claimingAhead((_, claims) => Effect.succeed(claims))))
  })

  it.live("end CANCELLED without having started", () => {
    const [running, go, ran]: [Deferred.Deferred<void>, Deferred.Deferred<void>, Array<number>] = [
      started(),
      started(),
      []
    ]
    return Effect.gen(function*() {
      const broker = yield* Broker
      const handles = yield* Effect.forEach([1, 2, 3], (n) => Held.send({ n }))
      yield* start(handler(running, go, ran), alone)
      yield* Deferred.await(running)
      assert.strictEqual((yield* record(handles[1]!.id)).state, "CLAIMED")
      const { requested } = yield* broker.cancel({ ids: [handles[1]!.id] })
      assert.deepStrictEqual(requested, [handles[1]!.id])
      assert.instanceOf(yield* Effect.flip(handles[1]!.await), Task.TaskCancelled)
      yield* Deferred.succeed(go, undefined)
      assert.strictEqual(yield* handles[2]!.await, 3)
      assert.deepStrictEqual(ran, [1, 3])
      assert.deepStrictEqual(yield* outcomes(handles[1]!.id), [])
    }).pipe(Effect.scoped, Effect.provide(claimingAhead((_, claims) => Effect.succeed(claims))))
  })

  // In virtual time: what is ready for too long is handed back anyway.
  it.effect("are handed back when their queue is paused", () => {
    const [running, go, ran]: [Deferred.Deferred<void>, Deferred.Deferred<void>, Array<number>] = [
      started(),
      started(),
      []
    ]
    const back = Effect.runSync(Queue.unbounded<Hold>())
    return Effect.gen(function*() {
      const broker = yield* Broker
      const handles = yield* Effect.forEach([1, 2, 3], (n) => Held.send({ n }))
      const released = Effect.forEach([1, 2], () => Effect.map(Queue.take(back), ({ id }) => id))
      yield* start(handler(running, go, ran), alone)
      yield* Deferred.await(running)
      yield* broker.configureQueue("held", { paused: true })
      assert.deepStrictEqual(yield* released, [handles[1]!.id, handles[2]!.id])
      yield* Deferred.succeed(go, undefined)
      assert.strictEqual(yield* handles[0]!.await, 1)
      assert.deepStrictEqual(ran, [1])
      yield* broker.configureQueue("held", { paused: false })
      assert.deepStrictEqual([yield* handles[1]!.await, yield* handles[2]!.await], [2, 3])
    }).pipe(
      Effect.scoped,
      Effect.provide(memoryBut((broker) => ({
        claim: (worker, wants) => broker.claim(worker, wants.map((want) => ({ ...want, ahead: 10 }))),
        release: (worker, holds) =>
          Effect.tap(broker.release(worker, holds), () => Effect.sync(() => Queue.offerAllUnsafe(back, holds)))
      })))
    )
  })

  it.live("are not started when it has become too late", () => {
    const [running, go, ran]: [Deferred.Deferred<void>, Deferred.Deferred<void>, Array<number>] = [
      started(),
      started(),
      []
    ]
    return Effect.gen(function*() {
      const handles = yield* Effect.forEach([1, 2, 3], (n) => Held.send({ n }))
      yield* start(handler(running, go, ran), alone)
      yield* Deferred.await(running)
      yield* Deferred.succeed(go, undefined)
      assert.instanceOf(yield* Effect.flip(handles[1]!.await), Task.TaskExpired)
      assert.strictEqual(yield* handles[2]!.await, 3)
      assert.deepStrictEqual(ran, [1, 3])
      assert.strictEqual((yield* record(handles[1]!.id)).attempts, 0)
    }).pipe(
      Effect.scoped,
      Effect.provide(
        claimingAhead((_, { tasks, ...rest }) =>
          Effect.succeed({ ...rest, tasks: tasks.map((task, i) => i === 1 ? { ...task, expiresIn: 0 } : task) })
        )
      )
    )
  })

  /** Hears what the broker has to say about a claim before it knows the claim. */
  const hearingFirst = (
    about: (broker: Broker["Service"], task: Hold) => Effect.Effect<unknown, BrokerError>,
    otherwise: Partial<Broker["Service"]> = {}
  ) => {
    let wakeUps: Queue.Dequeue<WakeUp> | undefined
    let told = false
    return memoryBut((broker) => ({
      wakeUps: Effect.tap(broker.wakeUps, (queue) => Effect.sync(() => wakeUps = queue)),
      claim: (worker, wants) =>
        Effect.gen(function*() {
          const claims = yield* broker.claim(worker, wants)
          const [first] = claims.tasks
          if (first === undefined || told) return claims
          told = true
          yield* about(broker, first)
          yield* Effect.repeat(Effect.andThen(Effect.yieldNow, Queue.size(wakeUps!)), { until: (size) => size === 0 })
          yield* Effect.yieldNow
          return claims
        }),
      finish: (worker, attempts) => broker.finish(worker, attempts, []),
      ...otherwise
    }))
  }

  it.live("end CANCELLED when that was asked for while their claim was under way", () => {
    const ran: Array<number> = []
    return Effect.gen(function*() {
      const handles = yield* Effect.forEach([1, 2], (n) => Held.send({ n }))
      yield* start(Held.toLayer(({ n }) => Effect.as(Effect.sync(() => ran.push(n)), n)), alone)
      assert.instanceOf(yield* Effect.flip(handles[0]!.await), Task.TaskCancelled)
      assert.strictEqual(yield* handles[1]!.await, 2)
      assert.deepStrictEqual(ran, [2])
    }).pipe(Effect.scoped, Effect.provide(hearingFirst((broker, { id }) => broker.cancel({ ids: [id] }))))
  })

  it.live("are handed back when their queue was paused while their claim was under way", () => {
    const ran: Array<number> = []
    return Effect.gen(function*() {
      const broker = yield* Broker
      const handle = yield* Held.send({ n: 1 })
      yield* start(
        Layer.merge(
          Held.toLayer(({ n }) => Effect.as(Effect.sync(() => ran.push(n)), n)),
          Echo.toLayer(({ text }) => Effect.succeed(text))
        ),
        alone
      )
      yield* Effect.repeat(record(handle.id), {
        until: ({ fence, state }) => fence === 1 && state === "PENDING",
        schedule: Schedule.spaced("1 millis")
      })
      assert.deepStrictEqual(ran, [])
      yield* broker.configureQueue("held", { paused: false })
      assert.strictEqual(yield* handle.await, 1)
    }).pipe(
      Effect.scoped,
      Effect.provide(hearingFirst((broker) => broker.configureQueue("held", { paused: true })))
    )
  })

  const pausedAndResumed = (broker: Broker["Service"]) =>
    Effect.andThen(
      broker.configureQueue("held", { paused: true }),
      broker.configureQueue("held", { paused: false })
    )

  const answers: ReadonlyArray<readonly [what: string, claims: number, otherwise: Partial<Broker["Service"]>]> = [
    ["start when their queue was paused and resumed while their claim was under way", 1, {}],
    [
      "are handed back, and claimed again, when nobody can say whether their queue is still paused",
      2,
      { queue: () => Effect.die("broken") }
    ]
  ]
  for (const [what, claims, otherwise] of answers) {
    it.live(what, () =>
      Effect.gen(function*() {
        const handle = yield* Held.send({ n: 1 })
        yield* start(Held.toLayer(({ n }) => Effect.succeed(n)), alone)
        assert.strictEqual(yield* handle.await, 1)
        assert.strictEqual((yield* record(handle.id)).fence, claims)
      }).pipe(Effect.scoped, Effect.provide(hearingFirst(pausedAndResumed, otherwise))))
  }
})

describe("claims whose answer was lost", () => {
  it.effect("are handed back within a second, also one soon after another", () => {
    const lost = new Set<string>()
    return Effect.gen(function*() {
      yield* start(Held.toLayer(({ n }) => Effect.succeed(n)), alone)
      for (const n of [1, 2]) {
        const handle = yield* Held.send({ n })
        const waiting = yield* Effect.forkChild(handle.await, { startImmediately: true })
        yield* Effect.repeat(TestClock.adjust(50), { times: 20 })
        assert.deepStrictEqual(waiting.pollUnsafe(), Exit.succeed(n))
        assert.strictEqual((yield* record(handle.id)).fence, 2)
      }
    }).pipe(
      Effect.scoped,
      Effect.provide(memoryBut((broker) => ({
        claim: (worker, wants) =>
          Effect.flatMap(
            broker.claim(worker, wants),
            (claims) =>
              claims.tasks.some(({ id }) => lost.size !== lost.add(id).size)
                ? Effect.fail(unavailable)
                : Effect.succeed(claims)
          ),
        finish: (worker, attempts) => broker.finish(worker, attempts, [])
      })))
    )
  })
})

describe("transactional attempts", () => {
  type Transact = Broker["Service"]["transact"]

  /** A transaction that goes well: what completes is recorded in it, anything else is rolled back. */
  const good = (broker: Broker["Service"]): Transact => (worker, hold, attempt) =>
    Effect.gen(function*() {
      const { elapsed, end } = yield* attempt
      if (end._tag !== "Completed") return { end, settled: false }
      yield* broker.finish(worker, [{ ...hold, elapsed, end }], [])
      return { end, settled: true }
    })

  const over = (transact: (broker: Broker["Service"], times: number) => Transact, recorded: Array<AttemptEnd> = []) => {
    let times = 0
    return memoryBut((broker) => ({
      transactional: Effect.succeed(true),
      transact: (...args) => transact(broker, ++times)(...args),
      finish: (worker, attempts, wants) => {
        recorded.push(...attempts.map(({ end }) => end))
        return broker.finish(worker, attempts, wants)
      }
    }))
  }

  const failing = (error: BrokerError): Transact => (_worker, _hold, attempt) =>
    Effect.andThen(attempt, Effect.fail(error))

  it.live("are recorded by their own transaction, and free their slots", () => {
    const recorded: Array<AttemptEnd> = []
    return Effect.gen(function*() {
      yield* startTransactional(({ n }) => Effect.succeed(n))
      const handles = yield* Effect.forEach([1, 2, 3], (n) => Held.send({ n }))
      assert.deepStrictEqual(yield* Effect.forEach(handles, (handle) => handle.await), [1, 2, 3])
      assert.deepStrictEqual(recorded, [])
    }).pipe(Effect.scoped, Effect.provide(over(good, recorded)))
  })

  it.live("are recorded by the worker when they have failed or are cancelled", () =>
    Effect.gen(function*() {
      const started = yield* Deferred.make<void>()
      yield* startTransactional(({ n }) =>
        n === 1 ? Effect.die("broken") : Effect.andThen(Deferred.succeed(started, undefined), Effect.never)
      )
      const broken = yield* Held.send({ n: 1 })
      assert.instanceOf(yield* Effect.flip(broken.await), Task.TaskDefect)
      const cancelled = yield* Held.send({ n: 2 })
      yield* Deferred.await(started)
      yield* Broker.use((broker) => broker.cancel({ ids: [cancelled.id] }))
      assert.instanceOf(yield* Effect.flip(cancelled.await), Task.TaskCancelled)
      assert.deepStrictEqual(yield* outcomes(cancelled.id), ["Cancelled"])
    }).pipe(Effect.scoped, Effect.provide(over(good))))

  it.live("run again before others when the broker could not end the transaction, and count no attempt", () => {
    const recorded: Array<AttemptEnd> = []
    const ran: Array<number> = []
    return Effect.gen(function*() {
      const handles = yield* Effect.forEach([1, 2, 3], (n) => Held.send({ n }))
      yield* startTransactional(({ n }) => Effect.as(Effect.sync(() => ran.push(n)), n))
      yield* Effect.forEach(handles, (handle) => handle.await)
      assert.deepStrictEqual(ran, [1, 1, 2, 3])
      assert.deepStrictEqual(recorded, [{ _tag: "Interrupted", why: "RolledBack" }])
      const [handle] = handles
      assert.strictEqual((yield* record(handle!.id)).attempts, 1)
      assert.deepStrictEqual(yield* outcomes(handle!.id), ["RolledBack", "Completed"])
    }).pipe(
      Effect.scoped,
      Effect.provide(over((broker, times) => times === 1 ? failing(unavailable) : good(broker), recorded))
    )
  })

  it.live("let others pass when the broker could not end the transaction again and again", () => {
    const recorded: Array<AttemptEnd> = []
    return Effect.gen(function*() {
      yield* startTransactional(({ n }) => Effect.succeed(n))
      const handle = yield* Held.send({ n: 1 })
      yield* handle.await
      assert.deepStrictEqual(recorded, [
        ...Array.from({ length: 10 }, () => ({ _tag: "Interrupted", why: "RolledBack" } as const)),
        { _tag: "Snoozed", delay: 1000 }
      ])
      assert.strictEqual((yield* record(handle.id)).attempts, 1)
    }).pipe(
      Effect.scoped,
      Effect.provide(over((broker, times) => times <= 11 ? failing(unavailable) : good(broker), recorded))
    )
  })

  it.live("end with what their handler has come to when none of their transactions ever ends", () =>
    Effect.gen(function*() {
      yield* startTransactional(() => Effect.die("broken"))
      const handle = yield* Held.send({ n: 1 })
      assert.instanceOf(yield* Effect.flip(handle.await), Task.TaskDefect)
      assert.strictEqual((yield* record(handle.id)).attempts, 1)
    }).pipe(Effect.scoped, Effect.provide(over(() => failing(unavailable)))))

  it.live("have failed when the broker refuses the transaction", () =>
    Effect.gen(function*() {
      yield* startTransactional(({ n }) => Effect.succeed(n))
      const first = yield* Held.send({ n: 1 })
      const error = yield* Effect.flip(first.await)
      assert.instanceOf(error, Task.TaskDefect)
      assert.include(error.message, "Refused: no")
      assert.strictEqual(yield* Effect.flatMap(Held.send({ n: 2 }), (handle) => handle.await), 2)
    }).pipe(Effect.scoped, Effect.provide(over((broker, times) => times === 1 ? failing(refused) : good(broker)))))

  it.effect("are refused where the broker has no transactions", () =>
    Effect.gen(function*() {
      const layer = Held.toLayer(({ n }) => Effect.succeed(n), { transaction: true })
      const error = yield* Effect.flip(Effect.scoped(Layer.build(Layer.provide(layer, Worker.layer()))))
      const { reason } = error
      assert.isTrue(reason._tag === "Misconfigured" && reason.code === "TRANSACTIONS_UNSUPPORTED")
      assert.isTrue(reason._tag === "Misconfigured" && reason.field === "transaction")
    }).pipe(Effect.provide(MemoryBroker.layer)))
})
