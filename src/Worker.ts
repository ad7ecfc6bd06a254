/**
 * A worker: claims tasks and runs their handlers.
 *
 * `Worker.layer` provides the place where handlers register (`Task.Handlers`), so handlers are layers on top of it. It
 * runs unchanged over every broker. A worker claims only what it has a handler for.
 *
 * When its scope closes, it stops claiming, hands back at once what has not started, waits up to `shutdownTimeout` for
 * what is running, interrupts the rest and hands that back too. No attempt is counted for either.
 * `launch` does so under all names at once with the first SIGTERM or SIGINT, and interrupts at once with the second.
 *
 * A handler is interrupted when its task is cancelled or takes longer than its `timeout`, when the worker stops, and when
 * it cannot prove its lease. The record of the attempt says which it was. What a handler has come to before it could be
 * interrupted counts. One that cannot be interrupted keeps its slot until it ends.
 *
 * Handlers are fibers of the worker's own process, unless they are in the module that `processes` names: then they run in
 * child processes, which can use all processors and may crash. The code is the same. The worker claims, beats and
 * records; a child runs what it is given.
 *
 * - The module is imported by each child, not by the worker. Its layers can use `Broker`, `SqlClient`, `PgClient` and
 *   `PostgresConfig` of the child: a small pool of its own that opens nothing before the first statement
 *   (`workerChildPool…` of `PostgresConfig`). Everything else they bring with them. Over `PostgresBroker.layerSqlClient`,
 *   provide a `PostgresConfig` beside it. Over a broker in memory, children have no `SqlClient` and no transactions, and a
 *   `Broker` that refuses.
 * - The concurrency of a queue is per process: with 4 processes and a concurrency of 2, 8 tasks run at once. A child runs
 *   its tasks side by side on one event loop, so give work that keeps a processor busy a concurrency of 1.
 * - When a child dies, what it was running is counted as lost and runs again at once; others go on. So does what shares a
 *   child with a handler that does not let itself be interrupted: its process is killed after `interruptGrace`, and its
 *   neighbours run again without counting anything. Another child is ready to take the place.
 * - A child interrupts what it runs when its worker does not say in time that it has its lease, as one that is frozen.
 * - Children ignore SIGINT and SIGTERM, and end with their worker, however it ends. To end one whose event loop is blocked
 *   takes a `/bin/sh`. They log where their worker does, to stdout or to stderr.
 *
 * @example
 * ```ts
 * import { PostgresBroker, Task, Worker } from "effect-horsies"
 * import { NodeRuntime } from "@effect/platform-node"
 * import { Effect, Layer, Schema } from "effect"
 *
 * class Greet extends Task.make("Greet", { payload: { name: Schema.String } }) {}
 *
 * Greet.toLayer(({ name }) => Effect.log(`Hello, ${name}`)).pipe(
 *   Layer.provideMerge(Worker.layer({ queues: { default: { concurrency: 8, limits: { concurrency: 20 } } } })),
 *   Layer.provide(PostgresBroker.layerConfig),
 *   Worker.launch,
 *   NodeRuntime.runMain
 * )
 * ```
 *
 * @example
 * ```ts
 * // tasks.ts
 * export const HashLive = Hash.toLayer(({ file }) => hash(file))
 *
 * // worker.ts
 * Worker.layer({
 *   queues: { hashes: { concurrency: 1 } },
 *   processes: { module: new URL("./tasks.ts", import.meta.url), count: 4, maxTasksPerChild: 10_000 }
 * }).pipe(
 *   Layer.provide(PostgresBroker.layerWorkerConfig),
 *   Worker.launch,
 *   NodeRuntime.runMain
 * )
 * ```
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Os from "node:os"
import { Broker, type BrokerError, type Hold, type Limits as BrokerLimits } from "./Broker.ts"
import { type Handler, Handlers } from "./Task.ts"
import { attemptOnce } from "./worker/attempt.ts"
import * as Backoff from "./worker/Backoff.ts"
import * as Children from "./worker/children/Children.ts"
import * as Handling from "./worker/children/handling.ts"
import { type ChildModuleError, optionsOf, type Processes } from "./worker/children/options.ts"
import * as Completer from "./worker/Completer.ts"
import * as Dispatcher from "./worker/Dispatcher.ts"
import { count, type Limits, limitsOf } from "./worker/limits.ts"
import * as Liveness from "./worker/Liveness.ts"
import * as Loops from "./worker/loops.ts"
import { notHandedBack } from "./worker/messages.ts"
import type { Run, Why } from "./worker/Runner.ts"
import * as Shutdown from "./worker/Shutdown.ts"
import { hurriedBySignal } from "./worker/signals.ts"
import * as Snapshots from "./worker/Snapshots.ts"
import { within } from "./worker/within.ts"

export { ChildModuleError, type Processes } from "./worker/children/options.ts"
export type { Limits, Rate } from "./worker/limits.ts"

/** How a worker serves one queue. */
export interface QueueOptions {
  /** Tasks that may run at once in this process. */
  readonly concurrency?: number | undefined
  /**
   * Limits of the queue over all workers together. They are stored in the broker when this worker starts, instead of
   * those that were there: of several workers the last one that starts wins. A worker that gives none leaves them alone.
   */
  readonly limits?: Limits | undefined
}

/** Options of a worker. */
export interface Options {
  /** The queues to serve. Default: the queues of all handlers. */
  readonly queues?: Readonly<Record<string, QueueOptions>> | undefined
  /** The concurrency of queues that name none. Default: 10. */
  readonly concurrency?: number | undefined
  /** Time between heartbeats. Default: 10 seconds. */
  readonly heartbeatInterval?: Duration.Input | undefined
  /**
   * How long the worker is believed alive after its last heartbeat, at least two heartbeat intervals. Default: three; below
   * that, one heartbeat that fails may cost a lone worker its lease. The same for all workers, or the silence of those with
   * the shortest looks like an outage.
   */
  readonly lease?: Duration.Input | undefined
  /** How long running handlers may go on when the worker stops. Default: 30 seconds. */
  readonly shutdownTimeout?: Duration.Input | undefined
  /** Runs the handlers of a module in child processes. */
  readonly processes?: Processes | undefined
}

/** How a worker is. */
export interface Status {
  /** Its present start: a worker that has lost its lease comes back under a new id. */
  readonly id: string
  /** Whether its loops go on and it can prove its lease. */
  readonly alive: boolean
  /** Whether it has been told to end. */
  readonly stopping: boolean
  /** Whether it takes on work: it has not been told to end, and where it runs tasks in child processes there is one. */
  readonly ready: boolean
  readonly running: number
  /** Tasks that it holds and has not started. */
  readonly claimed: number
}

/** A running worker. */
export class Worker extends Context.Service<Worker, {
  readonly status: Effect.Effect<Status>
  /**
   * Ends the work, under every name at the same moment, and succeeds when nothing is left: claims nothing more, hands back
   * at once what has not started, waits up to `shutdownTimeout` for what is running, interrupts the rest and hands that
   * back too. The worker stays known, and keeps its lease, until its scope closes. It does not start again.
   */
  readonly shutdown: Effect.Effect<void>
  /** The same, but interrupts what is running at once; also when a `shutdown` is waiting for it. */
  readonly shutdownNow: Effect.Effect<void>
}>()("effect-horsies/Worker") {}

/**
 * A worker as a layer. Building it fails when the broker cannot be reached, and when the module for its child processes
 * cannot be used.
 */
export const layer: {
  (options?: Options & { readonly processes?: undefined }): Layer.Layer<Handlers | Worker, BrokerError, Broker>
  (options: Options): Layer.Layer<Handlers | Worker, BrokerError | ChildModuleError, Broker>
} = (options: Options = {}): Layer.Layer<Handlers | Worker, BrokerError, Broker> =>
  Layer.effectContext(
    Effect.provideServiceEffect(make(options), Loops.Loops, Effect.sync(() => new Set()))
  ) as Layer.Layer<Handlers | Worker, BrokerError, Broker>

/**
 * Runs a worker until the program is interrupted, as `NodeRuntime.runMain` does with the first SIGTERM or SIGINT. Then it
 * shuts the worker down, and closes the layers. Another signal meanwhile interrupts what is running at once.
 *
 * `Layer.launch` closes the layers, and nothing else: handlers of one `Layer.mergeAll` stop together, but where layers of
 * handlers are stacked, the lower ones go on claiming while the upper ones wait for their runs; and no second signal is
 * heard.
 *
 * @example
 * ```ts
 * GreetLive.pipe(
 *   Layer.provideMerge(Worker.layer()),
 *   Layer.provide(PostgresBroker.layerWorkerConfig),
 *   Worker.launch,
 *   NodeRuntime.runMain
 * )
 * ```
 */
export const launch = <E, R>(self: Layer.Layer<Worker, E, R>): Effect.Effect<never, E, R> =>
  Effect.scoped(Effect.gen(function*() {
    const { shutdown, shutdownNow } = Context.get(yield* Layer.build(self), Worker)
    return yield* Effect.onInterrupt(Effect.never, () => hurriedBySignal(shutdown, shutdownNow))
  }))

const notServed = (name: string, queue: string) =>
  Effect.annotateLogs(Effect.logWarning("the worker does not serve the queue of this task"), { name, queue })

const make = Effect.fnUntraced(function*(options: Options) {
  const loops = yield* Loops.Loops
  const broker = yield* Broker
  const clock = yield* Clock.Clock
  const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
  const concurrency = count("concurrency", options.concurrency ?? 10)
  const heartbeatInterval = Duration.toMillis(Duration.fromInputUnsafe(options.heartbeatInterval ?? "10 seconds"))
  const lease = Duration.toMillis(Duration.fromInputUnsafe(options.lease ?? heartbeatInterval * 3))
  const shutdownTimeout = Duration.fromInputUnsafe(options.shutdownTimeout ?? "30 seconds")
  if (!(heartbeatInterval > 0) || !(lease >= 2 * heartbeatInterval)) {
    throw new Error("Worker.layer: heartbeatInterval is positive, and lease at least twice as long")
  }
  const queues = options.queues === undefined ? undefined : new Map(
    Object.entries(options.queues).map(([name, queue]): [string, number] => [
      name,
      count(`queues.${name}.concurrency`, queue.concurrency ?? concurrency)
    ])
  )

  const limits = Object.entries(options.queues ?? {}).flatMap(([name, queue]): Array<[string, BrokerLimits]> =>
    queue.limits === undefined ? [] : [[name, limitsOf(`queues.${name}.limits`, queue.limits)]]
  )
  // Before anything is claimed: limits hold for claims that begin afterwards.
  yield* Effect.forEach(limits, ([queue, limits]) => broker.configureQueue(queue, { limits }), { discard: true })

  const backoff = yield* Backoff.make
  // Each knows the other: what has ended is recorded by the statement that claims.
  let completer: Completer.Completer | undefined
  const dispatcher = yield* Dispatcher.make(broker, { queues, concurrency }, now, backoff, {
    offer: (attempt) => completer?.offer(attempt),
    unrecorded: () => completer?.unrecorded() ?? [],
    isBusy: () => completer?.isBusy() ?? false,
    isBehind: () => completer?.isBehind() ?? false
  })
  completer = yield* Completer.make(broker, dispatcher.claims, now, backoff)
  const { runner } = dispatcher

  /** Milliseconds until this worker gives up; children want to know it, and have to be there before it lives. */
  let fenceLeft = () => lease
  const processes = options.processes === undefined ? undefined : optionsOf(options.processes)
  const children = processes === undefined ? undefined : yield* Children.make(
    processes,
    { whole: lease, left: () => fenceLeft() },
    dispatcher.claims.call
  )

  const holdOf = (run: Run): Hold => ({ id: run.task.id, fence: run.task.fence })

  /** What the broker has to be told at the end: a broker that is away must not keep the process from ending. */
  const settled = (wait: Effect.Effect<unknown>) =>
    Effect.flatMap(
      within(Duration.max(shutdownTimeout, Duration.seconds(1)), wait),
      (done) =>
        done
          ? Effect.void
          : Effect.logWarning("the broker does not answer; what is claimed is recovered later")
    )

  /** Interrupts runs, gives their finalizers some time, and has their ends recorded: also of those that go on. */
  const interrupt = Effect.fnUntraced(
    function*(which: (run: Run) => boolean, why: Why, duration: Duration.Duration) {
      runner.interrupt(which, why)
      yield* within(duration, runner.awaitNone(which))
      runner.abandon(which)
    }
  )

  /** What the children handle of the queues that this worker serves. */
  const inChildren: Array<Handler> = []
  if (processes !== undefined && children !== undefined) {
    const handling = Handling.make(children, { interruptGrace: processes.interruptGrace, lostLeaseGrace: lease / 20 })
    for (const description of children.descriptions) {
      const { name, queue } = description.definition
      const handler = handling(description, queues === undefined ? concurrency : queues.get(queue) ?? concurrency)
      if (dispatcher.add(handler, children.active)) inChildren.push(handler)
      else yield* notServed(name, queue)
    }
  }

  const liveness = yield* Liveness.make(broker, backoff, {
    heartbeatInterval,
    lease,
    describe: () => ({
      host: Os.hostname(),
      pid: process.pid,
      handles: dispatcher.definitions()
    }),
    running: () => [...runner.running()].map(holdOf),
    snapshot: Snapshots.make({
      queues: dispatcher.occupancy,
      processes: () => children?.snapshot().map(({ memory, pid, running }) => ({ pid, running, memory })) ?? [],
      settings: {
        concurrency,
        heartbeatInterval,
        lease,
        shutdownTimeout: Duration.toMillis(shutdownTimeout),
        ...(processes === undefined ? {} : { processes: processes.count, module: processes.module })
      }
    }, now),
    onIdentity: dispatcher.identify,
    onCancel: dispatcher.cancel,
    flushed: completer.flushed,
    onLost: Effect.suspend(() => {
      dispatcher.identify(undefined)
      const ready = dispatcher.drop()
      // Others may take its tasks at the end of the lease, whatever a finalizer still has to do.
      return Effect.as(interrupt(() => true, "LeaseLost", Duration.millis(lease / 20)), ready)
    })
  }, now)
  fenceLeft = liveness.fenceLeft

  // Added last, so run first: the fibers above are still there to record what ends.
  yield* Effect.addFinalizer(() =>
    settled(Effect.gen(function*() {
      yield* dispatcher.stop
      yield* completer.flushed
      yield* liveness.stop
      yield* attemptOnce(broker.deregister(liveness.identity()), notHandedBack)
    }))
  )

  const ending = yield* Shutdown.make({
    stop: settled(dispatcher.stop),
    idle: runner.awaitNone(() => true),
    timeout: shutdownTimeout,
    interrupt: interrupt(() => true, "Shutdown", Duration.max(shutdownTimeout, Duration.seconds(1))),
    flushed: settled(completer.flushed)
  })

  /** Stops claims for handlers, and waits for their runs or interrupts them. */
  const withdraw = Effect.fnUntraced(function*(handlers: ReadonlyArray<Handler>) {
    const names = new Set(handlers.map(({ definition }) => definition.name))
    const theirs = (run: Run) => names.has(run.task.name)
    const ready = handlers.flatMap(dispatcher.remove)
    // Everything has ended then, or does not let itself be ended.
    if (ending.begun()) return yield* ending.graceful
    yield* settled(attemptOnce(broker.release(liveness.identity(), ready), notHandedBack))
    yield* within(shutdownTimeout, runner.awaitNone(theirs))
    yield* interrupt(theirs, "Shutdown", Duration.max(shutdownTimeout, Duration.seconds(1)))
    yield* settled(completer.flushed)
  })
  yield* Effect.addFinalizer(() => inChildren.length === 0 ? Effect.void : withdraw(inChildren))

  const register = Effect.fnUntraced(function*(handler: Handler) {
    const { name, queue } = handler.definition
    if (dispatcher.has(name)) {
      return yield* Effect.die(new Error(`Worker: there are two handlers for the task ${name}`))
    }
    yield* Effect.acquireRelease(
      Effect.suspend(() => {
        if (!dispatcher.add(handler)) return notServed(name, queue)
        liveness.announce()
        return Effect.annotateLogs(Effect.logDebug("handling tasks"), { name, queue })
      }),
      () => withdraw([handler])
    )
  })

  const status = Effect.sync((): Status => {
    const queues = dispatcher.occupancy()
    return {
      id: liveness.identity(),
      alive: liveness.leaseLeft() > 0 && Loops.areRunning(loops),
      stopping: ending.begun(),
      ready: !ending.begun() && children?.active() !== 0,
      running: queues.reduce((total, { running }) => total + running, 0),
      claimed: queues.reduce((total, { claimed }) => total + claimed, 0)
    }
  })

  return Context.make(Handlers, Handlers.of({ transactions: yield* broker.transactional, register })).pipe(
    Context.add(Worker, Worker.of({ status, shutdown: ending.graceful, shutdownNow: ending.immediate }))
  )
})
