/**
 * The dispatcher: one fiber that claims for all queues of the worker in one statement, and starts what it gets. A
 * wake-up, a free slot, the next due time or the poll floor make it look.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import type { Broker, ClaimedTask, Hold, WakeUp, Want } from "../Broker.ts"
import type { Handler } from "../Task.ts"
import { attempt, attemptOnce, backoff } from "./attempt.ts"
import type { Claims, Ended } from "./Completer.ts"
import { notHandedBack } from "./messages.ts"
import { QueueSlots } from "./QueueSlots.ts"
import * as Runner from "./Runner.ts"

/** Without a hint the worker looks this often: hints can be lost, this look cannot. */
const pollFloor = 5000

/** How often the worker looks whether it holds more than it can run, while it holds anything ready. */
const shedInterval = 250

/** A claim whose answer was lost may still be on its way to the server: it is looked for this long. */
const lateClaims = 600_000

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

export const make = Effect.fnUntraced(function*(
  broker: Broker["Service"],
  options: Options,
  now: () => number,
  onEnded: (attempt: Ended) => void,
  unrecorded: () => Iterable<Ended>
) {
  const handlers = new Map<string, Handler>()
  const queues = new Map<string, QueueSlots>()
  const signal = yield* Latch.make()
  const rearm = yield* Latch.make()
  /** The identity to claim under; none while the worker has none that it can prove alive. */
  let identity: string | undefined
  /** The claim under way; at most one. */
  let claiming: ReadonlyArray<Wanted> | undefined
  /** Open while no claim is under way. */
  const quiet = yield* Latch.make(true)
  /** When the next delayed task is due, by the monotonic clock. */
  let dueAt = 0

  const runner = yield* Runner.make((run, end) => {
    const at = now()
    const slots = queues.get(run.task.queue)
    slots?.free(at)
    if (end !== undefined) {
      onEnded({ worker: run.worker, id: run.task.id, fence: run.task.fence, startedAt: run.startedAt, end })
    } else {
      // The recorded attempt frees the slot for the next claim; an interrupted run leaves none.
      signal.openUnsafe()
    }
    if (slots !== undefined) start(slots)
  })

  let starting = false
  /** Starts what is ready. A handler that ends at once comes back here: the loop below goes on, the call returns. */
  const start = (slots: QueueSlots) => {
    if (starting) return
    starting = true
    for (let at = now(), ready = slots.take(at); ready !== undefined; at = now(), ready = slots.take(at)) {
      const { claimedAt, task, worker } = ready
      const handler = handlers.get(task.name)
      if (handler === undefined) {
        slots.free(at)
        releasing(worker, [task])
        continue
      }
      runner.start(handler, task, worker, at, task.waited + at - claimedAt)
    }
    starting = false
  }

  const toRelease = yield* Queue.unbounded<{ readonly worker: string; readonly task: ClaimedTask }>()
  /** Open while everything has been handed back. */
  const released = yield* Latch.make(true)
  let releases = 0
  const releasing = (worker: string, tasks: ReadonlyArray<ClaimedTask>) => {
    for (const task of tasks) {
      releases++
      released.closeUnsafe()
      Queue.offerUnsafe(toRelease, { worker, task })
    }
  }

  const begin = (worker: string): ReadonlyArray<Want> => {
    if (claiming !== undefined || worker !== identity) return []
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
    quiet.openUnsafe()
    signal.openUnsafe()
  }

  const end = (worker: string, claimed: ReadonlyArray<ClaimedTask>) => {
    if (worker !== identity) {
      // The worker has stopped, or lost its lease, while the claim was under way.
      releasing(worker, claimed)
      return over()
    }
    const at = now()
    const wanted = claiming ?? []
    for (const { calls, slots, want } of wanted) {
      const tasks = wanted.length === 1 ? claimed : claimed.filter((task) => task.queue === slots.queue)
      for (const task of tasks) slots.hold({ task, worker, claimedAt: at })
      slots.claimed(want, calls, tasks)
    }
    over()
    rearm.openUnsafe()
  }

  const startAll = () => {
    for (const slots of queues.values()) start(slots)
  }

  /** Open while there may be claims of this worker that it knows nothing of. */
  const suspicion = yield* Latch.make()
  let suspectUntil = 0
  const suspect = () => {
    suspectUntil = now() + lateClaims
    suspicion.openUnsafe()
  }
  const abort = () => {
    suspect()
    over()
  }

  /** Hands back what is held under this worker's identity without anybody here knowing. */
  const reconcile = (worker: string) =>
    attemptOnce(
      Effect.gen(function*() {
        const holds = yield* broker.holds(worker)
        // What a claim brings that was under way meanwhile is known when it ends.
        yield* quiet.await
        const known = new Set<string>()
        const know = ({ fence, id }: Hold) => known.add(`${id} ${fence}`)
        for (const slots of queues.values()) for (const { task } of slots.heldReady()) know(task)
        for (const { task } of runner.running()) know(task)
        for (const one of unrecorded()) know(one)
        const unknown = holds.filter(({ fence, id }) => !known.has(`${id} ${fence}`))
        if (unknown.length === 0) return
        yield* broker.release(worker, unknown)
        yield* Effect.annotateLogs(Effect.logWarning("claims whose answer was lost are handed back"), {
          claims: unknown.length
        })
      }),
      notHandedBack
    )

  const reconcileLoop = Effect.gen(function*() {
    yield* suspicion.await
    while (now() < suspectUntil) {
      if (identity !== undefined) yield* reconcile(identity)
      yield* Effect.sleep(Duration.millis(pollFloor * (0.8 + 0.4 * (yield* Random.next))))
    }
    suspicion.closeUnsafe()
  }).pipe(Effect.forever)

  const claims: Claims = { begin, end, abort, call: () => signal.openUnsafe() }

  const wake = (wakeUp: WakeUp) => {
    if (wakeUp._tag === "LookAgain") {
      dueAt = 0
      rearm.openUnsafe()
      return
    }
    const slots = queues.get(wakeUp.queue)
    if (slots === undefined) return
    if (wakeUp.dueIn <= 0) {
      slots.call()
      signal.openUnsafe()
    } else if (now() + wakeUp.dueIn < dueAt) {
      dueAt = now() + wakeUp.dueIn
      rearm.openUnsafe()
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
      const claim = yield* Effect.forkChild(attempt(broker.claim(worker, wants)), { startImmediately: true })
      startAll()
      const result = yield* Fiber.join(claim)
      if (result._tag === "Success") {
        failures = 0
        end(worker, result.success)
      } else {
        yield* Effect.annotateLogs(Effect.logWarning("claim failed"), result.failure.annotations)
        yield* Effect.sleep(yield* backoff(failures++))
        abort()
      }
    }
  })

  const holdsReady = () => [...queues.values()].some((slots) => slots.heldReady().length > 0)

  /** Hands back what was claimed ahead and would start sooner elsewhere. */
  const shed = () => {
    for (const slots of queues.values()) {
      for (const { task, worker } of slots.shed(now())) releasing(worker, [task])
    }
  }

  /** Promotes what has become due, and looks at everything once per floor. */
  const dueLoop = Effect.gen(function*() {
    let pollAt = 0
    let failures = 0
    while (true) {
      rearm.closeUnsafe()
      shed()
      const wait = Math.min(Math.min(dueAt, pollAt) - now(), holdsReady() ? shedInterval : Number.POSITIVE_INFINITY)
      if (wait > 0) {
        // Whole milliseconds: a timer that fires a fraction too early would only come back here.
        yield* Effect.raceFirst(Effect.sleep(Duration.millis(Math.ceil(wait))), rearm.await)
        continue
      }
      const at = now()
      if (at >= pollAt) pollAt = at + pollFloor * (0.8 + 0.4 * (yield* Random.next))
      // Set before the look, so that a wake-up during it can still lower it.
      dueAt = Number.POSITIVE_INFINITY
      if (queues.size === 0 || identity === undefined) continue
      const next = yield* attempt(broker.promote([...queues.keys()]))
      if (next._tag === "Success") {
        failures = 0
        if (next.success !== undefined) dueAt = Math.min(dueAt, now() + next.success)
        for (const slots of queues.values()) slots.call()
        signal.openUnsafe()
      } else {
        yield* Effect.annotateLogs(Effect.logWarning("look for due tasks failed"), next.failure.annotations)
        dueAt = Math.min(dueAt, now() + Duration.toMillis(yield* backoff(failures++)))
      }
    }
  })

  const releaseLoop = Effect.gen(function*() {
    const batch = yield* Queue.takeBetween(toRelease, 1, 1000)
    for (const worker of new Set(batch.map((one) => one.worker))) {
      const holds = batch.filter((one) => one.worker === worker).map((one) => one.task)
      if (!(yield* attemptOnce(broker.release(worker, holds), notHandedBack))) suspect()
    }
    releases -= batch.length
    if (releases === 0) released.openUnsafe()
  }).pipe(Effect.forever)

  const wakeUps = yield* broker.wakeUps
  yield* Effect.forkScoped(Effect.forever(Effect.map(Queue.take(wakeUps), wake)))
  yield* Effect.forkScoped(claimLoop)
  yield* Effect.forkScoped(dueLoop)
  yield* Effect.forkScoped(releaseLoop)
  yield* Effect.forkScoped(reconcileLoop)

  return {
    claims,
    runner,
    /** Claims under this identity from now on; under none until there is a new one. */
    identify: (worker: string | undefined) => {
      identity = worker
      if (worker === undefined) return
      for (const slots of queues.values()) slots.call()
      dueAt = 0
      rearm.openUnsafe()
      signal.openUnsafe()
    },
    /** Stops claiming, and succeeds once what a claim under way has brought is handed back. */
    stop: Effect.suspend(() => {
      const worker = identity
      identity = undefined
      const handedBack = Effect.andThen(quiet.await, released.await)
      return worker === undefined || now() >= suspectUntil ? handedBack : Effect.andThen(handedBack, reconcile(worker))
    }),
    /** Whether the worker serves the queue of this handler. */
    add: (handler: Handler): boolean => {
      const concurrency = options.queues === undefined ? options.concurrency : options.queues.get(handler.queue)
      if (concurrency === undefined) return false
      handlers.set(handler.name, handler)
      let slots = queues.get(handler.queue)
      if (slots === undefined) queues.set(handler.queue, slots = new QueueSlots(handler.queue, concurrency))
      slots.names.add(handler.name)
      slots.call()
      dueAt = 0
      rearm.openUnsafe()
      signal.openUnsafe()
      return true
    },
    has: (name: string) => handlers.has(name),
    /** Stops claims for a name. Succeeds with what was held ready for it. */
    remove: (handler: Handler): ReadonlyArray<ClaimedTask> => {
      handlers.delete(handler.name)
      const slots = queues.get(handler.queue)
      slots?.names.delete(handler.name)
      return slots?.drop((task) => task.name === handler.name) ?? []
    },
    /** Takes back everything that is held ready. */
    drop: (): ReadonlyArray<ClaimedTask> => [...queues.values()].flatMap((slots) => slots.drop(() => true))
  }
})
