/** Runs handlers on tasks that the worker has claimed. */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import { type AttemptEnd, Broker, type ClaimedTask, type Failure } from "../Broker.ts"
import type { Handler, Starting } from "../Task.ts"
import type { RunEnd } from "../worker/children/rpcs.ts"
import * as Observing from "../worker/observing.ts"
import { inRealTime, machineTime } from "../worker/realTime.ts"
import * as Transacting from "../worker/transacting.ts"
import type { Registry } from "./Registry.ts"

/** A run that the worker asks for. */
export interface Asked {
  readonly run: number
  readonly worker: string
  readonly tasks: ReadonlyArray<Starting>
}

interface Run {
  readonly fiber: Fiber.Fiber<ReadonlyArray<RunEnd>>
  /** How it ends because the worker interrupts it, or has not proven its lease: the first reason counts. */
  interrupted: RunEnd | undefined
}

/** Until when the worker has its lease, by `machineTime`, and how long it may take to hear of it, in milliseconds. */
interface Lease {
  readonly until: number
  readonly grace: number
}

/** Between two looks at the lease, in milliseconds: before it is known, and after it has passed. */
const longestSleep = 1000
const shortestSleep = 100

const ended = (end: AttemptEnd): RunEnd => ({ _tag: "Ended", end })

export const make = (handlers: Registry, context: Context.Context<Broker>) => {
  const fork = Effect.runForkWith(context)
  const observe = Observing.make(context)
  const broker = Context.get(context, Broker)
  const clock = Context.getOrElse(context, Clock.Clock, Clock.Clock.defaultValue)
  const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
  const inTransaction = Transacting.make(broker, now)
  const runs = new Map<number, Run>()

  const handlerOf = (task: ClaimedTask): Handler => {
    const handler = handlers.get(task.name)
    if (handler === undefined) throw new Error(`there is no handler for the task ${task.name}`)
    return handler
  }

  const attempt = (handler: Handler, worker: string, tasks: ReadonlyArray<Starting>) => {
    if (handler.batch !== undefined) return Effect.map(handler.batch.run(tasks), (ends) => ends.map(ended))
    const { task, waited } = tasks[0]!
    const startedAt = now()
    return handler.transaction
      ? Effect.map(
        inTransaction({ handler, task, worker, claimedAt: startedAt, startedAt }, waited),
        (end): ReadonlyArray<RunEnd> => [end === undefined ? { _tag: "Settled" } : ended(end)]
      )
      : Effect.map(handler.run(task, waited), (end): ReadonlyArray<RunEnd> => [ended(end)])
  }

  /** None before the worker has said until when it has it. */
  let lease: Lease | undefined

  /**
   * Interrupts what runs when the worker does not say in time that it has its lease: others are about to take its tasks, and
   * a worker that is frozen cannot do it.
   */
  const fence = Effect.gen(function*() {
    const left = () => lease === undefined ? longestSleep : lease.until - machineTime()
    yield* Effect.sleep(Math.min(longestSleep, Math.max(shortestSleep, left())))
    if (lease === undefined || left() > 0) return
    // An event loop that was blocked hears now what the worker had to say meanwhile.
    yield* Effect.sleep(lease.grace)
    if (left() > 0) return
    for (const run of runs.values()) {
      run.interrupted ??= ended({ _tag: "Interrupted", why: "LeaseLost" })
      run.fiber.interruptUnsafe()
    }
  }).pipe(Effect.forever, inRealTime)

  return {
    fence,
    /** The worker has its lease. */
    renew: (proven: Lease) => {
      lease = proven
    },
    /** Only the handler inside can be interrupted: what it has come to counts, however late an interruption arrives. */
    run: ({ run: number, tasks, worker }: Asked) =>
      Effect.callback<ReadonlyArray<RunEnd>>((resume) => {
        const { task } = tasks[0]!
        const handler = handlerOf(task)
        const size = handler.batch === undefined ? 0 : tasks.length
        const fiber = fork(observe(task, worker, size, attempt(handler, worker, tasks)), { uninterruptible: true })
        const run: Run = { fiber, interrupted: undefined }
        runs.set(number, run)
        fiber.addObserver((exit) => {
          runs.delete(number)
          if (Exit.isSuccess(exit)) return resume(exit)
          const { interrupted } = run
          resume(
            interrupted !== undefined
              ? Effect.succeed(tasks.map(() => interrupted))
              : Effect.forEach(tasks, ({ task }) => Effect.map(handler.interruptedItself(task, exit.cause), ended))
          )
        })
      }),
    interrupt: (number: number) => {
      const run = runs.get(number)
      if (run === undefined) return
      run.interrupted ??= { _tag: "Stopped" }
      run.fiber.interruptUnsafe()
    },
    failed: (task: ClaimedTask, failure: Failure) => Effect.suspend(() => handlerOf(task).failed(task, failure))
  }
}

export type Running = ReturnType<typeof make>
