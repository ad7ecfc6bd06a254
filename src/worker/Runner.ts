/** Runs handlers, a fiber each, and knows what is running. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as Tracer from "effect/Tracer"
import type { AttemptEnd, ClaimedTask } from "../Broker.ts"
import type { Handler } from "../Task.ts"

/** One run of a handler. */
export interface Run {
  readonly task: ClaimedTask
  /** The identity of the worker under which the task was claimed. */
  readonly worker: string
  readonly startedAt: number
}

interface Running extends Run {
  fiber: Fiber.Fiber<AttemptEnd> | undefined
  interrupted: boolean
}

/** Told when a run is over: with how it ended, or without when it was interrupted. */
export type OnEnd = (run: Run, end: AttemptEnd | undefined) => void

export const make = Effect.fnUntraced(function*(onEnd: OnEnd) {
  const runs = new Map<string, Running>()
  const changed = yield* Latch.make()
  const context = yield* Effect.context<never>()
  const fork = Effect.runForkWith(context)
  // Spans cost more than a small handler: only when somebody collects them.
  const traced = Context.getOrUndefined(context, Tracer.Tracer) !== undefined

  const observe = (task: ClaimedTask, worker: string, effect: Effect.Effect<AttemptEnd>) => {
    const annotated = Effect.annotateLogs(effect, {
      task: task.id,
      name: task.name,
      queue: task.queue,
      attempt: task.attempt,
      worker
    })
    return traced
      ? Effect.withSpan(annotated, `${task.name} process`, {
        kind: "consumer",
        attributes: {
          "messaging.system": "effect-horsies",
          "messaging.operation.type": "process",
          "messaging.destination.name": task.queue,
          "messaging.message.id": task.id,
          "horsies.task.name": task.name,
          "horsies.task.attempt": task.attempt
        }
      })
      : annotated
  }

  return {
    start: (handler: Handler, task: ClaimedTask, worker: string, startedAt: number, waited: number) => {
      // Known before it runs: its first steps may already set off a shutdown that waits for it.
      const run: Running = { task, worker, startedAt, fiber: undefined, interrupted: false }
      runs.set(task.id, run)
      run.fiber = fork(observe(task, worker, handler.run(task, waited)))
      if (run.interrupted) run.fiber.interruptUnsafe()
      run.fiber.addObserver((exit) => {
        // A task that was taken away and claimed again may be running here twice: forget only this run.
        if (runs.get(task.id) === run) runs.delete(task.id)
        if (Exit.isSuccess(exit)) onEnd(run, exit.value)
        else if (run.interrupted) onEnd(run, undefined)
        // Nobody here has interrupted it: an attempt that has failed, like one that died.
        else {fork(handler.interruptedItself(task)).addObserver((end) =>
            onEnd(run, Exit.isSuccess(end) ? end.value : undefined)
          )}
        changed.openUnsafe()
      })
    },
    running: (): Iterable<Run> => runs.values(),
    /** Interrupts runs without waiting for them. */
    interrupt: (which: (run: Run) => boolean) => {
      for (const run of runs.values()) {
        if (!which(run)) continue
        run.interrupted = true
        run.fiber?.interruptUnsafe()
      }
    },
    /** Waits until no such run is left. */
    awaitNone: (which: (run: Run) => boolean): Effect.Effect<void> =>
      Effect.gen(function*() {
        while (true) {
          changed.closeUnsafe()
          if (![...runs.values()].some(which)) return
          yield* changed.await
        }
      })
  }
})

export type Runner = Effect.Success<ReturnType<typeof make>>
