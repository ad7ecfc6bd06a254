/** Runs handlers, a fiber each, and knows what is running. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import type { AttemptEnd, Broker, Interruption } from "../Broker.ts"
import type { Handler } from "../Task.ts"
import * as Deadlines from "./Deadlines.ts"
import { type ElsewhereHandler, isElsewhere } from "./elsewhere.ts"
import * as Observing from "./observing.ts"
import type { ReadyTask } from "./QueueSlots.ts"
import * as Transacting from "./transacting.ts"

/** Why this worker interrupts a run. */
export type Why = Exclude<Interruption, "RolledBack"> | "Timeout" | "Cancelled"

/** One run of a handler. */
export interface Run extends ReadyTask {
  readonly startedAt: number
  readonly handler: Handler
}

interface Running extends Run {
  startedAt: number
  /** When it has taken too long. */
  deadline: number
  /** The runs that share its fiber: those of its batch, itself among them. */
  mates: ReadonlyArray<Running> | undefined
  fiber: Fiber.Fiber<unknown> | undefined
  /** Why it was interrupted: the first reason counts. */
  interruption: Why | undefined
  /** Its end is recorded although it goes on. */
  abandoned: boolean
}

export interface Events {
  /** A run is over. Without an end there is nothing to record. */
  readonly ended: (run: Run, end: AttemptEnd | undefined) => void
  /** A run does not end although it was interrupted: record this, and keep its slot. */
  readonly abandoned: (run: Run, end: AttemptEnd) => void
  /** After everything that has ended together: slots of this queue are free. */
  readonly freed: (queue: string) => void
}

const uninterruptible = { uninterruptible: true } as const

const timedOut = (timeout: number | undefined) => ({
  kind: "Timeout" as const,
  value: JSON.stringify(`the handler took longer than ${timeout} milliseconds`)
})

export const make = Effect.fnUntraced(function*(broker: Broker["Service"], now: () => number, events: Events) {
  const runs = new Map<string, Running>()
  const changed = yield* Latch.make()
  const context = yield* Effect.context<never>()
  const fork = Effect.runForkWith(context)
  const observe = Observing.make(context)
  const inTransaction = Transacting.make(broker, now)

  /** How a run ends whose handler had no end of its own because it was interrupted. */
  const interruptedEnd = ({ handler, interruption, task }: Running, cause: Cause.Cause<never>) => {
    switch (interruption) {
      case undefined:
        return handler.interruptedItself(task, cause)
      case "Timeout":
        return handler.failed(task, timedOut(task.timeout))
      case "Cancelled":
        return Effect.succeed<AttemptEnd>({ _tag: "Cancelled" })
      default:
        return Effect.succeed<AttemptEnd>({ _tag: "Interrupted", why: interruption })
    }
  }

  const ended = (run: Running, end: AttemptEnd | undefined) => {
    // A task that was taken away and claimed again may be running here twice: forget only this run.
    if (runs.get(run.task.id) === run) runs.delete(run.task.id)
    events.ended(run, run.abandoned ? undefined : end)
  }
  const freed = (queue: string) => {
    events.freed(queue)
    changed.openUnsafe()
  }
  const over = (run: Running, end: AttemptEnd | undefined) => {
    ended(run, end)
    freed(run.task.queue)
  }
  const allOver = (members: ReadonlyArray<Running>, ends: ReadonlyArray<AttemptEnd | undefined>) => {
    for (let i = 0; i < members.length; i++) ended(members[i]!, ends[i])
    freed(members[0]!.task.queue)
  }

  const deadlines = yield* Deadlines.make(now, (at) => {
    let next = Number.POSITIVE_INFINITY
    interrupt((run) => {
      if (run.deadline <= at) return true
      next = Math.min(next, run.deadline)
      return false
    }, "Timeout")
    return next
  })

  /** What is to run is known before it runs: its first steps may already set off a shutdown that waits for it. */
  const know = (handler: Handler, { claimedAt, task, worker }: ReadyTask, startedAt: number): Running => {
    const run: Running = {
      task,
      worker,
      claimedAt,
      startedAt,
      handler,
      deadline: Number.POSITIVE_INFINITY,
      mates: undefined,
      fiber: undefined,
      interruption: undefined,
      abandoned: false
    }
    runs.set(task.id, run)
    if (!isElsewhere(handler)) begin(run, startedAt)
    return run
  }

  /** Its time begins. */
  const begin = (run: Running, at: number) => {
    run.startedAt = at
    if (run.task.timeout === undefined) return
    run.deadline = at + run.task.timeout
    deadlines.watch(run.deadline)
  }

  const waited = ({ claimedAt, startedAt, task }: Run) => task.waited + startedAt - claimedAt

  const elsewhere = (handler: ElsewhereHandler, members: ReadonlyArray<Running>) =>
    handler.elsewhere(members.map((run) => ({
      task: run.task,
      worker: run.worker,
      waited: waited(run),
      begins: () => begin(run, now()),
      why: () => run.interruption
    })))

  const interrupt = (which: (run: Running) => boolean, why: Why) => {
    const hit: Array<Running> = []
    for (const run of runs.values()) {
      if (run.interruption !== undefined || !which(run)) continue
      run.interruption = why
      hit.push(run)
    }
    for (const run of hit) {
      for (const mate of run.mates ?? []) mate.interruption ??= "Neighbour"
    }
    for (const run of hit) run.fiber?.interruptUnsafe()
  }

  return {
    start: (handler: Handler, ready: ReadyTask, startedAt: number) => {
      const run = know(handler, ready, startedAt)
      const { task, worker } = run
      const effect: Effect.Effect<AttemptEnd | undefined> = isElsewhere(handler)
        ? Effect.map(elsewhere(handler, [run]), ([end]) => end)
        : handler.transaction
        ? inTransaction(run, waited(run))
        : handler.run(task, waited(run))
      // Only the handler inside can be interrupted: what it has come to counts, however late an interruption arrives.
      const fiber = fork(observe(task, worker, 0, effect), uninterruptible)
      run.fiber = fiber
      if (run.interruption !== undefined) fiber.interruptUnsafe()
      fiber.addObserver((exit) => {
        if (Exit.isSuccess(exit)) return over(run, exit.value)
        fork(interruptedEnd(run, exit.cause)).addObserver((end) =>
          over(run, Exit.isSuccess(end) ? end.value : undefined)
        )
      })
    },
    /** Runs tasks of one name in one call of their handler. */
    startBatch: (
      handler: Handler,
      batch: NonNullable<Handler["batch"]>,
      ready: ReadonlyArray<ReadyTask>,
      startedAt: number
    ) => {
      const members = ready.map((one) => know(handler, one, startedAt))
      for (const run of members) run.mates = members
      const { task, worker } = members[0]!
      const effect: Effect.Effect<ReadonlyArray<AttemptEnd | undefined>> = isElsewhere(handler)
        ? elsewhere(handler, members)
        : batch.run(members.map((run) => ({ task: run.task, waited: waited(run) })))
      const fiber = fork(observe(task, worker, members.length, effect), uninterruptible)
      for (const run of members) run.fiber = fiber
      if (members.some((run) => run.interruption !== undefined)) fiber.interruptUnsafe()
      fiber.addObserver((exit) => {
        if (Exit.isSuccess(exit)) return allOver(members, exit.value)
        fork(Effect.forEach(members, (run) => interruptedEnd(run, exit.cause))).addObserver((ends) =>
          allOver(members, Exit.isSuccess(ends) ? ends.value : [])
        )
      })
    },
    running: (): Iterable<Run> => runs.values(),
    /** Interrupts runs without waiting for them. The others of a batch are interrupted with them. */
    interrupt: (which: (run: Run) => boolean, why: Why) => interrupt(which, why),
    /** Ends interrupted runs that go on all the same, so that their tasks can run elsewhere. */
    abandon: (which: (run: Run) => boolean) => {
      for (const run of runs.values()) {
        if (run.interruption === undefined || run.abandoned || !which(run)) continue
        run.abandoned = true
        fork(interruptedEnd(run, Cause.empty)).addObserver((end) => {
          if (Exit.isSuccess(end)) events.abandoned(run, end.value)
        })
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
