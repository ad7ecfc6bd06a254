/**
 * Keeps the worker believed alive, and makes it give up in time when it cannot be.
 *
 * The worker counts from the moment at which it sent the last heartbeat that succeeded, by its own monotonic clock. When
 * the lease is about to pass without another, it interrupts its handlers before others may take its tasks, and comes
 * back under a new identity.
 */
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Random from "effect/Random"
import { type Broker, BrokerError, type Hold, Unavailable, type WorkerSnapshot, type WorkerStart } from "../Broker.ts"
import { attempt, attemptOnce } from "./attempt.ts"
import type { Backoff } from "./Backoff.ts"
import { forkLoop } from "./loops.ts"
import { notHandedBack } from "./messages.ts"
import { heartbeatsPerSnapshot } from "./Snapshots.ts"

/** The part of the lease that is left to interrupt handlers in. */
const margin = 0.1

/** The shortest time between two looks for the dead, in milliseconds. */
const shortestLook = 50

export interface Options {
  readonly heartbeatInterval: number
  readonly lease: number
  readonly describe: () => Omit<WorkerStart, "id" | "lease">
  readonly running: () => ReadonlyArray<Hold>
  readonly snapshot: () => WorkerSnapshot
  /** The worker has this identity from now on. */
  readonly onIdentity: (worker: string) => void
  /** Waits until everything that has ended is recorded. */
  readonly flushed: Effect.Effect<void>
  /** Somebody wants these tasks cancelled. */
  readonly onCancel: (ids: ReadonlyArray<string>) => void
  /** The identity cannot be proven alive any more: interrupt everything. Succeeds with the holds that have not started. */
  readonly onLost: Effect.Effect<ReadonlyArray<Hold>>
}

const unanswered = new BrokerError({ reason: new Unavailable({ message: "the heartbeat was not answered in time" }) })

export const make = Effect.fnUntraced(function*(
  broker: Broker["Service"],
  backoff: Backoff,
  options: Options,
  now: () => number
) {
  let identity = SecureRandom.uuidV7Unsafe()
  let provenAt = now()
  const lost = yield* Latch.make()
  let stopped = false
  let beats = 0
  // Below the interval: a heartbeat that hangs must not stand in the way of the next.
  const deadline = Duration.millis(options.heartbeatInterval * 0.75)

  const register = (id: string) => {
    const sentAt = now()
    return Effect.map(broker.register({ ...options.describe(), id, lease: options.lease }), () => {
      provenAt = sentAt
    })
  }

  const beat = Effect.gen(function*() {
    const sentAt = now()
    const worker = identity
    const snapshot = beats++ % heartbeatsPerSnapshot === 0 ? options.snapshot() : undefined
    const result = yield* broker.heartbeat(worker, options.running(), snapshot).pipe(
      Effect.timeoutOrElse({ duration: deadline, orElse: () => Effect.fail(unanswered) }),
      backoff.attempt
    )
    if (worker !== identity || stopped) return
    if (result._tag === "Failure") {
      yield* Effect.annotateLogs(Effect.logWarning("heartbeat failed"), result.failure.annotations)
      return
    }
    if (result.success.alive) {
      provenAt = sentAt
      if (result.success.cancelling.length > 0) options.onCancel(result.success.cancelling)
    } else {
      lost.openUnsafe()
    }
  })

  const expiry = () => provenAt + options.lease * (1 - margin)

  const watch = Effect.gen(function*() {
    while (true) {
      const wait = expiry() - now()
      if (wait > 0) {
        yield* Effect.raceFirst(Effect.sleep(Duration.millis(Math.ceil(wait))), lost.await)
        if (!lost.isOpen() && expiry() > now()) continue
      }
      const before = identity
      yield* Effect.annotateLogs(Effect.logWarning("lease lost: handlers are interrupted"), { worker: before })
      const holds = yield* options.onLost
      identity = SecureRandom.uuidV7Unsafe()
      for (let failures = 0;; failures++) {
        const result = yield* backoff.attempt(register(identity))
        if (result._tag === "Success") break
        // As often as it would beat: the sooner it is back, the sooner it can look after others.
        yield* Effect.raceFirst(backoff.wait(failures, result.failure), pause(0))
      }
      lost.closeUnsafe()
      // What nobody has taken yet is handed back: an outage is not a loss.
      // The old identity is forgotten only when what ended under it is recorded: holds of the unknown count as lost.
      yield* attemptOnce(
        broker.release(before, holds).pipe(
          Effect.andThen(options.flushed),
          Effect.andThen(broker.deregister(before))
        ),
        notHandedBack
      )
      options.onIdentity(identity)
    }
  })

  /** Succeeds with when the next worker can be found dead. A lease has passed once it is over. */
  const recover = Effect.gen(function*() {
    const result = yield* attempt(broker.recover)
    if (result._tag === "Failure") {
      yield* Effect.annotateLogs(Effect.logWarning("recovery failed"), result.failure.annotations)
      return Number.POSITIVE_INFINITY
    }
    const { nextIn, ...recovered } = result.success
    if (recovered.workers + recovered.released + recovered.failed > 0) {
      yield* Effect.annotateLogs(Effect.logWarning("tasks of lost workers recovered"), recovered)
    }
    return now() + (nextIn ?? Number.POSITIVE_INFINITY) + 1
  })

  /** Waits until the next is due, when the last one began so long ago, but never for longer than `most`. */
  const pause = (passed: number, most = Number.POSITIVE_INFINITY) =>
    Effect.flatMap(Random.next, (random) => {
      const wait = options.heartbeatInterval * (0.8 + 0.2 * random) - passed
      return Effect.sleep(Duration.millis(Math.max(1, Math.ceil(Math.min(wait, most)))))
    })

  /** Looks for the dead as often as it beats, and as soon as there is one; not all workers at the same moment. */
  const recovering = Effect.gen(function*() {
    let sweepAt = now()
    while (true) {
      // One that was stopped itself, by a debugger or a handler that computes, does not bury the others, or itself.
      const next = now() - provenAt < options.lease * 0.75 ? yield* recover : Number.POSITIVE_INFINITY
      if (now() >= sweepAt) {
        yield* attemptOnce(broker.sweep, "nothing removed that need not be kept")
        sweepAt = now() + options.heartbeatInterval * 0.8
      }
      const spread = Math.max(shortestLook, options.heartbeatInterval / 20)
      yield* pause(0, Math.max(shortestLook, next - now() + (yield* Random.next) * spread))
    }
  })

  /** One that has hung until its deadline is followed by the next when that is due anyway. */
  const beating = Effect.gen(function*() {
    let sentAt = now()
    while (true) {
      yield* pause(now() - sentAt)
      sentAt = now()
      yield* beat
    }
  })

  /** Open while this worker handles more than it has made known. */
  const more = yield* Latch.make()
  /** Open while no handlers are being made known. */
  const announced = yield* Latch.make(true)

  /** Makes known what came later. It proves nothing: only a heartbeat says whether the worker was declared dead. */
  const announce = Effect.gen(function*() {
    yield* more.await
    more.closeUnsafe()
    for (let failures = 0;; failures++) {
      if (stopped) return
      announced.closeUnsafe()
      const registration = broker.register({ ...options.describe(), id: identity, lease: options.lease })
      const result = yield* backoff.attempt(registration)
      announced.openUnsafe()
      if (result._tag === "Success") return
      yield* Effect.annotateLogs(Effect.logWarning("handlers not made known yet"), result.failure.annotations)
      yield* backoff.wait(failures, result.failure)
    }
  })

  yield* register(identity)
  options.onIdentity(identity)
  // Apart from each other: a heartbeat that hangs must not keep the watch from noticing.
  yield* forkLoop(beating)
  yield* forkLoop(watch)
  yield* forkLoop(Effect.forever(announce))
  yield* forkLoop(recovering)

  return {
    identity: () => identity,
    /** Milliseconds until it gives up, unless another heartbeat succeeds. */
    fenceLeft: () => expiry() - now(),
    /** Milliseconds for which the worker has proven itself alive; 0 when it cannot. */
    leaseLeft: () => Math.max(0, provenAt + options.lease - now()),
    /** Handlers were added. */
    announce: () => more.openUnsafe(),
    /**
     * What a heartbeat under way has to say is of no interest any more: the worker is about to forget itself. Waits until
     * nothing is under way that would make it known once more.
     */
    stop: Effect.suspend(() => {
      stopped = true
      return announced.await
    })
  }
})
