/**
 * A worker: claims tasks and runs their handlers.
 *
 * `Worker.layer` provides the place where handlers register (`Task.Handlers`), so handlers are layers on top of it. It
 * runs unchanged over every broker. A worker claims only what it has a handler for.
 *
 * When its scope closes, it stops claiming, hands back at once what has not started, waits up to `shutdownTimeout` for
 * what is running, interrupts the rest and hands that back too. No attempt is counted for either.
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
 *   Layer.provide(Worker.layer({ queues: { default: { concurrency: 8 } } })),
 *   Layer.provide(PostgresBroker.layerConfig),
 *   Layer.launch,
 *   NodeRuntime.runMain
 * )
 * ```
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Os from "node:os"
import { Broker, type BrokerError, type Hold } from "./Broker.ts"
import { type Handler, Handlers } from "./Task.ts"
import { attemptOnce } from "./worker/attempt.ts"
import * as Completer from "./worker/Completer.ts"
import * as Dispatcher from "./worker/Dispatcher.ts"
import * as Liveness from "./worker/Liveness.ts"
import { notHandedBack } from "./worker/messages.ts"
import type { Run } from "./worker/Runner.ts"
import { within } from "./worker/within.ts"

/** Options of a worker. */
export interface Options {
  /** The queues to serve, and how many tasks of each may run at once in this process. Default: the queues of all handlers. */
  readonly queues?: Readonly<Record<string, { readonly concurrency?: number | undefined }>> | undefined
  /** The concurrency of queues that name none. Default: 10. */
  readonly concurrency?: number | undefined
  /** Time between heartbeats. Default: 10 seconds. */
  readonly heartbeatInterval?: Duration.Input | undefined
  /** How long the worker is believed alive after its last heartbeat. Default: three heartbeat intervals. */
  readonly lease?: Duration.Input | undefined
  /** How long running handlers may go on when the worker stops. Default: 30 seconds. */
  readonly shutdownTimeout?: Duration.Input | undefined
}

/** A worker as a layer. Building it fails when the broker cannot be reached. */
export const layer = (options: Options = {}): Layer.Layer<Handlers, BrokerError, Broker> =>
  Layer.effect(Handlers, make(options))

const make = Effect.fnUntraced(function*(options: Options) {
  const broker = yield* Broker
  const clock = yield* Clock.Clock
  const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
  const concurrency = count("concurrency", options.concurrency ?? 10)
  const heartbeatInterval = Duration.toMillis(Duration.fromInputUnsafe(options.heartbeatInterval ?? "10 seconds"))
  const lease = Duration.toMillis(Duration.fromInputUnsafe(options.lease ?? heartbeatInterval * 3))
  const shutdownTimeout = Duration.fromInputUnsafe(options.shutdownTimeout ?? "30 seconds")
  if (!(heartbeatInterval > 0) || !(lease > heartbeatInterval)) {
    throw new Error("Worker.layer: heartbeatInterval is positive and lease is longer than it")
  }
  const queues = options.queues === undefined ? undefined : new Map(
    Object.entries(options.queues).map(([name, queue]): [string, number] => [
      name,
      count(`queues.${name}.concurrency`, queue.concurrency ?? concurrency)
    ])
  )

  let completer: Completer.Completer | undefined
  const dispatcher = yield* Dispatcher.make(
    broker,
    { queues, concurrency },
    now,
    (attempt) => completer?.offer(attempt),
    () => completer?.unrecorded() ?? []
  )
  completer = yield* Completer.make(broker, dispatcher.claims, now)
  const { runner } = dispatcher
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

  /** Interrupts runs, gives their finalizers some time, and succeeds with the holds that they leave. */
  const interrupt = Effect.fnUntraced(function*(which: (run: Run) => boolean, duration: Duration.Duration) {
    const left = [...runner.running()].filter(which)
    runner.interrupt(which)
    yield* within(duration, runner.awaitNone(which))
    return left.map(holdOf)
  })

  const liveness = yield* Liveness.make(broker, {
    heartbeatInterval,
    lease,
    describe: () => ({ host: Os.hostname(), pid: process.pid, queues: queues === undefined ? [] : [...queues.keys()] }),
    running: () => [...runner.running()].map(holdOf),
    onIdentity: dispatcher.identify,
    flushed: completer.flushed,
    onLost: Effect.suspend(() => {
      dispatcher.identify(undefined)
      const ready = dispatcher.drop()
      // Others may take its tasks at the end of the lease, whatever a finalizer still has to do.
      return Effect.map(interrupt(() => true, Duration.millis(lease / 20)), (running) => [...ready, ...running])
    })
  }, now)

  // Added last, so run first: the fibers above are still there to record what ends.
  yield* Effect.addFinalizer(() =>
    settled(Effect.gen(function*() {
      yield* dispatcher.stop
      yield* completer.flushed
      liveness.stop()
      yield* attemptOnce(broker.deregister(liveness.identity()), notHandedBack)
    }))
  )

  const register = Effect.fnUntraced(function*(handler: Handler) {
    if (dispatcher.has(handler.name)) {
      return yield* Effect.die(new Error(`Worker: there are two handlers for the task ${handler.name}`))
    }
    yield* Effect.acquireRelease(
      Effect.suspend(() =>
        dispatcher.add(handler)
          ? Effect.annotateLogs(Effect.logDebug("handling tasks"), { name: handler.name, queue: handler.queue })
          : Effect.annotateLogs(Effect.logWarning("the worker does not serve the queue of this task"), {
            name: handler.name,
            queue: handler.queue
          })
      ),
      () =>
        Effect.gen(function*() {
          const ofHandler = (run: Run) => run.task.name === handler.name
          const release = (holds: ReadonlyArray<Hold>) =>
            settled(attemptOnce(broker.release(liveness.identity(), holds), notHandedBack))
          yield* release(dispatcher.remove(handler))
          yield* within(shutdownTimeout, runner.awaitNone(ofHandler))
          yield* release(yield* interrupt(ofHandler, Duration.max(shutdownTimeout, Duration.seconds(1))))
          yield* settled(completer.flushed)
        })
    )
  })

  return Handlers.of({ register })
})

/** Options are constants of a program, so a bad one is a defect of it. */
const count = (option: string, value: number) => {
  if (!Number.isInteger(value) || value < 1) {
    throw new Error(`Worker.layer: ${option} is a whole number of at least 1 (found ${value})`)
  }
  return value
}
