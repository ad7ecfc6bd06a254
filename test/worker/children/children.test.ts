/** Handlers in child processes, over the broker in memory. In real time. */
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { Broker } from "../../../src/Broker.ts"
import * as MemoryBroker from "../../../src/MemoryBroker.ts"
import * as Task from "../../../src/Task.ts"
import * as Worker from "../../../src/Worker.ts"
import { eventually } from "../../support/eventually.ts"
import * as program from "../../support/program.ts"
import { outcomes, quick, record } from "../../support/worker.ts"
import { Act, Bunch, Chain, Refusal, Spin, Where } from "./module.ts"
import { both, gone, module, start, where } from "./processes.ts"

class Here extends Task.make("Here", { payload: {}, success: Where.successSchema, queue: "where" }) {}

const act = (what: Task.Payload<typeof Act>["what"]) => Act.send({ what })
const acted = (what: Task.Payload<typeof Act>["what"]) => Effect.flatMap(act(what), (handle) => handle.await)

/** Waits until a worker holds a task. */
const claimed = (id: string) =>
  Effect.repeat(Effect.andThen(Effect.sleep(10), record(id)), { until: ({ state }) => state === "CLAIMED" })

const Shared = Here.toLayer(() => Effect.succeed(process.pid)).pipe(
  Layer.provide(Worker.layer({ ...quick, concurrency: 2, processes: { module, count: 2, interruptGrace: 300 } })),
  Layer.provideMerge(MemoryBroker.layer)
)

layer(Shared, { excludeTestServices: true, timeout: "60 seconds" })("handlers in child processes", (it) => {
  it.effect("run there, in all of them; those of the worker itself run in the worker", () =>
    Effect.gen(function*() {
      const pids = yield* both
      assert.notInclude(pids, process.pid)
      assert.strictEqual(yield* Effect.flatMap(Here.send({}), (handle) => handle.await), process.pid)
    }), 60_000)

  it.effect("fail, die, are postponed and interrupt themselves as anywhere", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* Effect.flip(acted("fail")), new Refusal({ why: "no" }))
      const defect = yield* Effect.flip(acted("die"))
      assert.instanceOf(defect, Task.TaskDefect)
      assert.include(defect.message, "Error: broken")
      assert.strictEqual(yield* acted("snoozeOnce"), "attempt 1")
      assert.include((yield* Effect.flip(acted("interruptItself"))).message, "interrupted itself")
    }), 60_000)

  it.effect("get batches", () =>
    Effect.gen(function*() {
      const broker = yield* Broker
      yield* broker.configureQueue("bunches", { paused: true })
      const handles = yield* Effect.forEach([1, 2, 3, 4], (n) => Bunch.send({ n }))
      yield* broker.configureQueue("bunches", { paused: false })
      const results = yield* Effect.forEach(handles, (handle) => handle.await)
      // As many as the concurrency of a process.
      assert.deepStrictEqual(results.map(({ size }) => size), [2, 2, 2, 2])
    }), 60_000)

  it.effect("have no broker where the worker's is in memory, and are told so", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* Effect.flatMap(Chain.send({}), (handle) => handle.await), "NO_BROKER_IN_CHILD")
    }), 60_000)

  it.effect("that are cancelled are interrupted, and their process lives on", () =>
    Effect.gen(function*() {
      const before = yield* both
      const handle = yield* act("never")
      yield* claimed(handle.id)
      yield* Broker.use((broker) => broker.cancel({ ids: [handle.id] }))
      assert.instanceOf(yield* Effect.flip(handle.await), Task.TaskCancelled)
      assert.deepStrictEqual(yield* outcomes(handle.id), ["Cancelled"])
      assert.sameMembers(yield* both, before)
    }), 60_000)

  it.effect(
    "that end their process are lost, and run again at once in another; after three times they are FAILED",
    () =>
      Effect.gen(function*() {
        const before = yield* both
        const once = yield* act("exitOnce")
        assert.strictEqual(yield* once.await, "alive after 1")
        assert.deepStrictEqual(yield* outcomes(once.id), ["Lost", "Completed"])
        const { attempts, losses } = yield* record(once.id)
        assert.deepStrictEqual({ attempts, losses }, { attempts: 1, losses: 1 })
        assert.lengthOf(before.filter(program.isAlive), 1)

        const always = yield* act("exit")
        assert.instanceOf(yield* Effect.flip(always.await), Task.TaskLost)
        assert.deepStrictEqual(yield* outcomes(always.id), ["Lost", "Lost", "Lost"])
        // And the next ones run all the same.
        assert.lengthOf(yield* both, 2)
      }),
    60_000
  )

  it.effect(
    "that keep their processor busy are timed out with their process, and tried again by their policy",
    () =>
      Effect.gen(function*() {
        const handle = yield* Spin.send({})
        assert.instanceOf(yield* Effect.flip(handle.await), Task.TaskTimedOut)
        assert.deepStrictEqual(yield* outcomes(handle.id), ["Timeout", "Timeout"])
      }),
    60_000
  )

  it.effect(
    "that share a process with one that has to be killed run again without a loss; others do not notice",
    () =>
      Effect.gen(function*() {
        // Each child has one that sleeps; one of them gets a spinning neighbour.
        yield* both
        const sleepers = yield* Effect.forEach([1, 2], () => Where.send({ n: 2500 }))
        for (const { id } of sleepers) yield* claimed(id)
        const spinning = yield* act("spin")
        yield* claimed(spinning.id)
        yield* Broker.use((broker) => broker.cancel({ ids: [spinning.id] }))
        assert.instanceOf(yield* Effect.flip(spinning.await), Task.TaskCancelled)
        for (const handle of sleepers) yield* handle.await
        const ends = yield* Effect.forEach(sleepers, ({ id }) => outcomes(id))
        assert.sameDeepMembers(ends, [["Completed"], ["Neighbour", "Completed"]])
        for (const { id } of sleepers) {
          const { attempts, losses } = yield* record(id)
          assert.deepStrictEqual({ attempts, losses }, { attempts: 1, losses: 0 })
        }
      }),
    60_000
  )
})

layer(MemoryBroker.layer, { excludeTestServices: true, timeout: "60 seconds" })("child processes", (it) => {
  it.effect("end with their worker, which waits for what runs", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.fork(yield* Effect.scope)
      yield* Scope.provide(start(), scope)
      const before = yield* both
      const [short, long] = [yield* Where.send({ n: 300 }), yield* act("stubborn")]
      yield* claimed(short.id)
      yield* claimed(long.id)
      yield* Scope.close(scope, Exit.void)
      yield* gone(before)
      assert.deepStrictEqual(yield* outcomes(short.id), ["Completed"])
      assert.deepStrictEqual(yield* outcomes(long.id), ["Shutdown"])
      assert.strictEqual((yield* record(long.id)).state, "PENDING")
      yield* Broker.use((broker) => broker.cancel({ ids: [long.id] }))
    }), 60_000)

  it.effect("end after as many tasks as they are given", () =>
    Effect.gen(function*() {
      yield* start({ count: 1, maxTasksPerChild: 3 })
      const pids = yield* Effect.forEach(Array.from({ length: 7 }), () => where())
      const [first, second, third] = new Set(pids)
      assert.deepStrictEqual(pids, [first, first, first, second, second, second, third])
      yield* gone([first!, second!])
    }), 60_000)

  it.effect("end when they are larger than they may be", () =>
    Effect.gen(function*() {
      yield* start({ count: 1, maxMemoryPerChild: 400_000_000 })
      const first = Number(yield* acted("grow"))
      yield* gone([first])
      assert.notStrictEqual(yield* where(), first)
    }), 60_000)

  it.effect(
    "are not started when they would be larger than that without having done anything",
    () =>
      Effect.gen(function*() {
        const starting = Effect.scoped(start({ count: 1, maxMemoryPerChild: 1_000_000 }))
        const error = yield* Effect.flip(starting as Effect.Effect<unknown, unknown>)
        assert.instanceOf(error, Worker.ChildModuleError)
        assert.match(error.reason, /takes \d+ bytes before it has run anything, and maxMemoryPerChild is 1000000/)
      }),
    60_000
  )

  it.effect(
    "are killed when their event loop is blocked for too long; the task counts as lost",
    () =>
      Effect.gen(function*() {
        yield* start({ count: 1, blockedWarning: "1 second", blockedTimeout: "2 seconds" })
        const handle = yield* act("spinOnce")
        assert.strictEqual(yield* handle.await, "spun")
        assert.deepStrictEqual(yield* outcomes(handle.id), ["Lost", "Completed"])
      }),
    60_000
  )

  it.effect(
    "that cannot be started any more are no reason to hold tasks, and the worker says that it is not ready",
    () =>
      Effect.gen(function*() {
        const broken = join(mkdtempSync(join(tmpdir(), "horsies-")), "broken")
        yield* Effect.addFinalizer(() => Effect.sync(() => rmSync(dirname(broken), { recursive: true })))
        const source = `import { existsSync } from "node:fs"
        export * from ${JSON.stringify(module.href)}
        if (existsSync(${JSON.stringify(broken)})) throw new Error("broken")`
        const worker = Context.get(
          yield* start({ module: `data:text/javascript,${encodeURIComponent(source)}`, count: 1 }),
          Worker.Worker
        )
        const first = yield* where()
        assert.isTrue((yield* worker.status).ready)
        writeFileSync(broken, "")
        // Ends whatever children there are.
        const killing = yield* act("exit")
        const idle = worker.status.pipe(
          Effect.delay("20 millis"),
          Effect.repeat({ until: ({ ready, running }) => !ready && running === 0 })
        )
        yield* idle
        const waiting = yield* Where.send({ n: 0 })
        // What has come to be held all the same is handed back.
        yield* Effect.repeat(Effect.andThen(idle, record(waiting.id)), { until: ({ state }) => state === "PENDING" })
        assert.isTrue((yield* worker.status).alive)
        yield* Broker.use((broker) => broker.cancel({ ids: [killing.id] }))
        rmSync(broken)
        assert.notStrictEqual(yield* waiting.await, first)
        assert.deepStrictEqual(yield* outcomes(waiting.id), ["Completed"])
        assert.isTrue((yield* worker.status).ready)
      }),
    60_000
  )

  it.effect("end when their worker is killed, whatever they are doing", () =>
    Effect.gen(function*() {
      const worker = yield* program.start(fileURLToPath(new URL("orphan.ts", import.meta.url)))
      // It has children of its own to wait for.
      yield* eventually("a child that is blocked", () => worker.output().includes("spinning"), 45)
      const pids = worker.output().split("\n")[0]!.split(" ").map(Number)
      assert.lengthOf(pids, 2)
      assert.isTrue(pids.every(program.isAlive))
      yield* worker.signal("SIGKILL")
      yield* gone(pids)
    }), 60_000)

  it.effect(
    "interrupt what they run when their worker is frozen for so long that others may take its tasks",
    () =>
      Effect.gen(function*() {
        const worker = yield* program.start(fileURLToPath(new URL("frozen.ts", import.meta.url)))
        yield* eventually("a handler that runs", () => worker.output().includes("begun"), 45)
        yield* worker.signal("SIGSTOP")
        yield* eventually("the end of the handler", () => worker.output().includes("interrupted"), 20)
        yield* worker.signal("SIGCONT")
      }),
    60_000
  )

  it.effect("leave it to their worker what a signal to all processes means", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.fork(yield* Effect.scope)
      yield* Scope.provide(start(), scope)
      const pids = yield* both
      const handle = yield* Where.send({ n: 200 })
      for (const pid of pids) for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.kill(pid, signal)
      const pid = yield* handle.await
      assert.include(pids, pid)
      yield* Scope.close(scope, Exit.void)
      yield* gone(pids)
    }), 60_000)

  const reasons: Record<string, readonly [module: string | URL, reason: RegExp]> = {
    "that is not there": ["./nowhere.ts", /Cannot find module .*nowhere\.ts/],
    "that throws": ["data:text/javascript,throw new Error('no luck')", /no luck/],
    "that ends the process": ["data:text/javascript,process.exit(3)", /its process ended with exit code 3/],
    "that exports no layer": ["data:text/javascript,export const a = 1", /none of its exports is a layer/],
    "without handlers": [new URL("idle.ts", import.meta.url), /its layers register no handler/],
    "whose layers need what is not there": [new URL("needy.ts", import.meta.url), /effect\/sql\/SqlClient/]
  }
  it.effect.each(Object.entries(reasons))("refuse a module %s", ([, [module, reason]]) =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(Effect.scoped(start({ module, count: 1 })))
      const error = Exit.isFailure(exit)
        ? exit.cause.reasons.map((reason) => "error" in reason ? reason.error : reason)[0]
        : exit
      assert.instanceOf(error, Worker.ChildModuleError)
      assert.match(error.message, /^the module (file|data):/)
      assert.match(error.reason, reason)
    }), 60_000)

  it.effect("refuse a module that takes too long", () =>
    Effect.gen(function*() {
      const module = "data:text/javascript,await new Promise(() => setInterval(() => 0, 1000))"
      const starting = Effect.scoped(start({ module, count: 1, startTimeout: "3 seconds" }))
      const error = yield* Effect.flip(starting as Effect.Effect<unknown, unknown>)
      assert.instanceOf(error, Worker.ChildModuleError)
      assert.strictEqual(error.reason, "it was not ready after 3 seconds")
    }), 60_000)
})
