/**
 * A broker between the real one and a worker, through which the worker gets nothing but the tasks that are handed to it.
 * Everything else that a worker does by itself comes to rest here.
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import {
  Broker,
  type BrokerError,
  type ClaimedTask,
  type Claims,
  type Definition,
  type EndedAttempt,
  highestPriority,
  type WakeUp,
  type WorkerStart
} from "../../Broker.ts"

const nothing: Claims = { tasks: [], again: new Map(), full: new Set() }

/** Whether a worker records the attempt no more, or only after a while that no test waits for. */
const givesUp = (cause: Cause.Cause<BrokerError>, attempts: ReadonlyArray<EndedAttempt>): boolean => {
  const error = cause.reasons.find(Cause.isFailReason)?.error
  if (error?.isRetryable === true) return true
  // Else it tries again, one by one, and what cannot be stored as a failure.
  return attempts.length === 1 && attempts[0]!.end._tag !== "Completed"
}

export const make = Effect.fnUntraced(function*(broker: Broker["Service"]) {
  const wakeUps = yield* Queue.unbounded<WakeUp>()
  let worker: WorkerStart | undefined
  let handedOver: ReadonlyArray<ClaimedTask> = []
  const running = new Map<string, Deferred.Deferred<void, BrokerError>>()

  const settle = (id: string, exit: Effect.Effect<void, BrokerError>) => {
    const waiting = running.get(id)
    running.delete(id)
    if (waiting !== undefined) Deferred.doneUnsafe(waiting, exit)
  }

  // Interruption is how somebody stops a handler, wherever its task came from.
  const heard = yield* broker.wakeUps
  yield* Queue.take(heard).pipe(
    Effect.map((wakeUp) => wakeUp._tag === "Cancel" && Queue.offerUnsafe(wakeUps, wakeUp)),
    Effect.forever,
    Effect.forkScoped
  )

  const gated = Broker.of({
    ...broker,
    // What it handles is made known by `handle`, in time for the test.
    register: (start) => {
      if (worker !== undefined) return Effect.void
      worker = start
      return broker.register(start)
    },
    heartbeat: () => Effect.succeed({ alive: true, cancelling: [] }),
    recover: Effect.succeed({ workers: 0, released: 0, failed: 0, nextIn: undefined }),
    sweep: Effect.void,
    // No look for due tasks comes to an end, so there is no second one.
    promote: () => Effect.never,
    claim: (_, wants) =>
      Effect.sync(() => {
        const wanted = new Set(wants.map(({ queue }) => queue))
        const tasks = handedOver.filter(({ queue }) => wanted.has(queue))
        handedOver = handedOver.filter(({ queue }) => !wanted.has(queue))
        return { ...nothing, tasks }
      }),
    finish: (worker, attempts) =>
      broker.finish(worker, attempts, []).pipe(
        Effect.map(({ accepted }) => {
          for (const { id } of attempts) settle(id, Effect.void)
          return { accepted, claimed: nothing }
        }),
        Effect.tapCause((cause) =>
          Effect.sync(() => {
            if (!givesUp(cause, attempts)) return
            for (const { id } of attempts) settle(id, Effect.failCause(cause))
          })
        )
      ),
    transact: (worker, hold, attempt) =>
      Effect.tap(broker.transact(worker, hold, attempt), ({ settled }) =>
        Effect.sync(() => {
          // Otherwise its end is yet to come to `finish`.
          if (settled) settle(hold.id, Effect.void)
        })),
    wakeUps: Effect.succeed(wakeUps)
  })

  const start = Effect.suspend(() =>
    worker === undefined ? Effect.die(new Error("the worker has not made itself known")) : Effect.succeed(worker)
  )

  return {
    broker: gated,
    /** The id under which the worker claims. */
    worker: Effect.map(start, ({ id }) => id),
    /** Makes known what the worker handles. */
    handle: (handles: ReadonlyArray<Definition>): Effect.Effect<void, BrokerError> =>
      Effect.flatMap(start, (start) => broker.register({ ...start, handles })),
    /** Has the worker run a claimed task. Waits until its end is recorded. */
    run: (task: ClaimedTask): Effect.Effect<void, BrokerError> =>
      Effect.suspend(() => {
        const over = Deferred.makeUnsafe<void, BrokerError>()
        running.set(task.id, over)
        handedOver = [...handedOver, task]
        Queue.offerUnsafe(wakeUps, { _tag: "Sent", queue: task.queue, priority: highestPriority, dueIn: 0 })
        return Deferred.await(over)
      })
  }
})
