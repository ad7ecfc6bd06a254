/**
 * The dispatcher: one fiber that claims for all queues of the worker in one statement, and starts what it gets. A
 * wake-up, a free slot, the next due time or the poll floor make it look.
 */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import type { AttemptEnd, Broker, Claims, Definition, Hold, QueueOccupancy, WakeUp, Want } from "../Broker.ts"
import type { Handler } from "../Task.ts"
import type { Backoff } from "./Backoff.ts"
import type { Claiming, Ended } from "./Completer.ts"
import * as DueTimes from "./DueTimes.ts"
import { isElsewhere } from "./elsewhere.ts"
import { forkLoop } from "./loops.ts"
import * as LostClaims from "./LostClaims.ts"
import { QueueSlots, type ReadyTask } from "./QueueSlots.ts"
import * as Releases from "./Releases.ts"
import * as Runner from "./Runner.ts"

export interface Options {
  /** The queues to serve; without, the queues of all handlers. */
  readonly queues: ReadonlyMap<string, number> | undefined
  /** The concurrency of queues that are not named. */
  readonly concurrency: number
}

/** What a claim under way wants from one queue, and the calls that the queue had heard before. */
interface Wanted {
  readonly slots: QueueSlots
  readonly want: Want
  readonly calls: number
}

/** Whether the time in which a task had to start is over. */
const isLate = ({ claimedAt, task }: ReadyTask, at: number) =>
  task.expiresIn !== undefined && at - claimedAt >= task.expiresIn

/** No attempt is scheduled that would start too late. */
const inTime = (end: AttemptEnd, { claimedAt, task }: ReadyTask, at: number): AttemptEnd =>
  end._tag === "Retry" && task.expiresIn !== undefined && at - claimedAt + end.delay >= task.expiresIn
    ? { _tag: "Failed", failure: end.failure }
    : end

/** How recording comes along. */
export interface Recording {
  readonly offer: (attempt: Ended) => void
  readonly unrecorded: () => Iterable<Ended>
  /** Whether a flush is under way. */
  readonly isBusy: () => boolean
  /** Whether so much is waiting to be recorded that nothing more should be started. */
  readonly isBehind: () => boolean
}

export const make = Effect.fnUntraced(function*(
  broker: Broker["Service"],
  options: Options,
  now: () => number,
  backoff: Backoff,
  recording: Recording
) {
  /** Of the rests of its queues: other workers have theirs at other moments. */
  const phase = yield* Random.next
  const handlers = new Map<string, Handler>()
  const queues = new Map<string, QueueSlots>()
  const signal = yield* Latch.make()
  /** The identity to claim under; none while the worker has none that it can prove alive. */
  let identity: string | undefined
  let stopped = false
  /** The claim under way; at most one. */
  let claiming: ReadonlyArray<Wanted> | undefined
  /** Open while no claim is under way. */
  const quiet = yield* Latch.make(true)
  /** What has been cancelled and which queues were paused while the claim was under way: it may bring them all the same. */
  const cancelled = new Set<string>()
  const paused = new Set<string>()

  const record = ({ task: { fence, id }, worker }: ReadyTask, startedAt: number | undefined, end: AttemptEnd) =>
    recording.offer({ worker, id, fence, startedAt, end })

  const runner = yield* Runner.make(broker, now, {
    ended: (run, end) => {
      const at = now()
      const slots = queues.get(run.task.queue)
      if (slots?.free(at) === true) dueTimes.rearm()
      // The recorded attempt frees the slot for the next claim; without one, the claim has to be called for. So it has
      // where nothing is left to do while what ended before is still being recorded.
      if (end === undefined || (slots?.isIdle() === true && recording.isBusy())) signal.openUnsafe()
      if (end !== undefined) return record(run, run.startedAt, inTime(end, run, at))
      // What a transaction elsewhere has recorded is news to the broker here; what has found no child is handed back.
      if (isElsewhere(run.handler)) release([run])
    },
    abandoned: (run, end) => record(run, run.startedAt, inTime(end, run, now())),
    freed: (queue) => {
      const slots = queues.get(queue)
      if (slots !== undefined) start(slots)
    }
  })

  /** Takes the tasks that are too late out of those that were to start. */
  const withoutLate = (slots: QueueSlots, taken: ReadonlyArray<ReadyTask>, at: number) =>
    taken.filter((ready) => {
      if (!isLate(ready, at)) return true
      slots.putBack(at)
      record(ready, undefined, { _tag: "Expired" })
      return false
    })

  let starting = false
  /** Starts what is ready. A handler that ends at once comes back here: the loop below goes on, the call returns. */
  const start = (slots: QueueSlots) => {
    if (starting) return
    starting = true
    for (let at = now(), ready = slots.take(at); ready !== undefined; at = now(), ready = slots.take(at)) {
      const handler = handlers.get(ready.task.name)
      if (handler === undefined) {
        slots.putBack(at)
        release([ready])
      } else if (handler.batch !== undefined) {
        const taken = [ready, ...slots.takeMore(ready.task.name, handler.batch.size - 1)]
        const batch = withoutLate(slots, taken, at)
        if (batch.length > 0) runner.startBatch(handler, handler.batch, batch, at)
      } else if (isLate(ready, at)) {
        withoutLate(slots, [ready], at)
      } else {
        runner.start(handler, ready, at)
      }
    }
    starting = false
  }

  const begin = (worker: string): ReadonlyArray<Want> => {
    if (claiming !== undefined || worker !== identity || recording.isBehind()) return []
    const at = now()
    const wanted: Array<Wanted> = []
    const wants: Array<Want> = []
    for (const slots of queues.values()) {
      const next = slots.want(at)
      if (next === undefined) continue
      wants.push(next.want)
      wanted.push({ slots, ...next })
    }
    if (wants.length > 0) {
      claiming = wanted
      quiet.closeUnsafe()
    }
    return wants
  }

  const over = () => {
    claiming = undefined
    cancelled.clear()
    paused.clear()
    quiet.openUnsafe()
    signal.openUnsafe()
  }

  /** Holds a claimed task ready, unless something came in between. */
  const hold = (slots: QueueSlots, ready: ReadyTask) => {
    if (cancelled.has(ready.task.id)) record(ready, undefined, { _tag: "Cancelled" })
    else if (paused.has(slots.queue)) release([ready])
    else slots.hold(ready)
  }

  /** What was claimed while a pause was heard of may be from before it, or from after its end: what is set now decides. */
  const resumed = (claimed: Claims) =>
    Effect.forEach(new Set(claimed.tasks.map(({ queue }) => queue).filter((queue) => paused.has(queue))), (queue) => {
      paused.delete(queue)
      return Effect.map(backoff.attempt(broker.queue(queue)), (result) => {
        if (result._tag === "Failure" || result.success.paused) paused.add(queue)
      })
    }, { concurrency: "unbounded", discard: true })

  const end = (worker: string, claimed: Claims) => {
    const at = now()
    const settled = Effect.sync(() => settle(worker, claimed, at))
    return paused.size === 0 ? settled : Effect.andThen(resumed(claimed), settled)
  }

  const settle = (worker: string, claimed: Claims, at: number) => {
    if (worker !== identity) {
      // The worker has stopped, or lost its lease, while the claim was under way.
      releases.offer(worker, claimed.tasks)
      return over()
    }
    const wanted = claiming ?? []
    for (const { calls, slots, want } of wanted) {
      const tasks = wanted.length === 1 ? claimed.tasks : claimed.tasks.filter((task) => task.queue === slots.queue)
      for (const task of tasks) hold(slots, { task, worker, claimedAt: at })
      const [again, full] = [claimed.again.get(slots.queue), claimed.full.has(slots.queue)]
      slots.claimed(want, calls, { tasks, again, full }, at)
    }
    over()
    dueTimes.rearm()
  }

  const startAll = () => {
    for (const slots of queues.values()) start(slots)
  }

  const lostClaims = yield* LostClaims.make(broker, now, {
    identity: () => identity,
    quiet: quiet.await,
    *known(): Iterable<Hold> {
      for (const slots of queues.values()) for (const { task } of slots.heldReady()) yield task
      for (const { task } of runner.running()) yield task
      yield* recording.unrecorded()
    }
  })
  const releases = yield* Releases.make(broker, lostClaims.suspect)
  const release = (tasks: ReadonlyArray<ReadyTask>) => {
    for (const { task, worker } of tasks) releases.offer(worker, [task])
  }
  const dueTimes = yield* DueTimes.make(broker, now, backoff, {
    queues,
    claiming: () => identity !== undefined,
    call: () => signal.openUnsafe(),
    release
  })

  const abort = () => {
    lostClaims.suspect()
    over()
  }

  const claims: Claiming = { begin, end, abort, call: () => signal.openUnsafe() }

  /** Interrupts those of these tasks that run, and ends those that are held ready. */
  const cancel = (ids: ReadonlyArray<string>) => {
    const wanted = new Set(ids)
    if (claiming !== undefined) { for (const id of wanted) cancelled.add(id) }
    for (const slots of queues.values()) {
      for (const ready of slots.drop(({ id }) => wanted.has(id))) record(ready, undefined, { _tag: "Cancelled" })
    }
    runner.interrupt(({ task }) => wanted.has(task.id), "Cancelled")
  }

  /** Hands back what is held ready of a queue. */
  const pause = (queue: string) => {
    if (claiming !== undefined) paused.add(queue)
    release(queues.get(queue)?.drop(() => true) ?? [])
  }

  const sent = ({ dueIn, priority, queue }: Extract<WakeUp, { readonly _tag: "Sent" }>) => {
    const slots = queues.get(queue)
    if (slots === undefined) return
    if (dueIn <= 0) {
      slots.call(priority)
      signal.openUnsafe()
    } else {
      dueTimes.lookAt(now() + dueIn)
    }
  }

  const wake = (wakeUp: WakeUp) => {
    switch (wakeUp._tag) {
      case "Sent":
        return sent(wakeUp)
      case "Cancel":
        return cancel(wakeUp.ids)
      case "Paused":
        return pause(wakeUp.queue)
      case "LookAgain":
        return dueTimes.lookNow()
    }
  }

  const claimLoop = Effect.gen(function*() {
    let failures = 0
    while (true) {
      yield* signal.await
      signal.closeUnsafe()
      const worker = identity
      if (worker === undefined) continue
      const wants = begin(worker)
      if (wants.length === 0) {
        startAll()
        continue
      }
      // The handlers of the last claim run while the server works on this one.
      const claim = yield* Effect.forkChild(backoff.attempt(broker.claim(worker, wants)), { startImmediately: true })
      startAll()
      const result = yield* Fiber.join(claim)
      if (result._tag === "Success") {
        failures = 0
        yield* end(worker, result.success)
      } else {
        yield* Effect.annotateLogs(Effect.logWarning("claim failed"), result.failure.annotations)
        abort()
        yield* backoff.wait(failures++, result.failure)
      }
    }
  })

  const wakeUps = yield* broker.wakeUps
  yield* forkLoop(Effect.forever(Effect.map(Queue.take(wakeUps), wake)))
  yield* forkLoop(claimLoop)

  return {
    claims,
    runner,
    cancel,
    /** Claims under this identity from now on; under none until there is a new one. */
    identify: (worker: string | undefined) => {
      identity = stopped ? undefined : worker
      if (identity === undefined) return
      for (const slots of queues.values()) slots.call()
      dueTimes.lookNow()
      signal.openUnsafe()
    },
    /** Stops claiming for good, and succeeds once whatever has not started is handed back. */
    stop: Effect.suspend(() => {
      const worker = identity
      identity = undefined
      stopped = true
      for (const slots of queues.values()) release(slots.drop(() => true))
      const handedBack = Effect.andThen(quiet.await, releases.done)
      return worker === undefined || !lostClaims.suspected()
        ? handedBack
        : Effect.andThen(handedBack, lostClaims.reconcile(worker))
    }),
    /**
     * Whether the worker serves the queue of this handler. The first handler of a queue says how many processes share its
     * slots; when there are more of them than before, `claims.call` tells.
     */
    add: (handler: Handler, processes?: () => number): boolean => {
      const { name, queue } = handler.definition
      const concurrency = options.queues === undefined ? options.concurrency : options.queues.get(queue)
      if (concurrency === undefined) return false
      handlers.set(name, handler)
      let slots = queues.get(queue)
      if (slots === undefined) queues.set(queue, slots = new QueueSlots(queue, concurrency, phase, processes))
      slots.handle(handler.definition)
      dueTimes.lookNow()
      signal.openUnsafe()
      return true
    },
    has: (name: string) => handlers.has(name),
    occupancy: (): ReadonlyArray<QueueOccupancy> =>
      [...queues.values()].map((slots) => ({
        queue: slots.queue,
        concurrency: slots.concurrency,
        running: slots.running,
        claimed: slots.heldReady().length
      })),
    definitions: (): ReadonlyArray<Definition> => [...handlers.values()].map(({ definition }) => definition),
    /** Stops claims for a name. Succeeds with what was held ready for it. */
    remove: ({ definition }: Handler): ReadonlyArray<Hold> => {
      handlers.delete(definition.name)
      const slots = queues.get(definition.queue)
      slots?.unhandle(definition.name)
      return slots?.drop(({ name }) => name === definition.name).map(({ task }) => task) ?? []
    },
    /** Takes back everything that is held ready. */
    drop: (): ReadonlyArray<Hold> =>
      [...queues.values()].flatMap((slots) => slots.drop(() => true)).map(({ task }) => task)
  }
})
