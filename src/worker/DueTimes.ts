/**
 * The clock of the dispatcher: promotes what has become due, claims again when a broker has said so, hands back what waits
 * too long here, and looks at everything once per poll floor.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Random from "effect/Random"
import type { Broker } from "../Broker.ts"
import type { Backoff } from "./Backoff.ts"
import { forkLoop } from "./loops.ts"
import type { QueueSlots, ReadyTask } from "./QueueSlots.ts"

/** Without a hint the worker looks this often: hints can be lost, this look cannot. */
const pollFloor = 5000

/** How often the worker looks whether it holds more than it can run, while it holds anything ready. */
const shedInterval = 250

export interface Options {
  readonly queues: ReadonlyMap<string, QueueSlots>
  /** Whether the worker claims at present. */
  readonly claiming: () => boolean
  /** There may be something to claim. */
  readonly call: () => void
  /** These would start sooner elsewhere. */
  readonly release: (tasks: ReadonlyArray<ReadyTask>) => void
}

export const make = Effect.fnUntraced(function*(
  broker: Broker["Service"],
  now: () => number,
  backoff: Backoff,
  options: Options
) {
  const { queues } = options
  const rearm = yield* Latch.make()
  /** When the next delayed task is due, by the monotonic clock. */
  let dueAt = 0

  const lookAt = (at: number) => {
    if (at >= dueAt) return
    dueAt = at
    rearm.openUnsafe()
  }

  const lookNow = () => lookAt(0)

  const holdsReady = () => [...queues.values()].some((slots) => slots.heldReady().length > 0)

  /** Hands back what was claimed ahead and would start sooner elsewhere. */
  const shed = () => {
    for (const slots of queues.values()) options.release(slots.shed(now()))
  }

  /** Claims again from queues whose broker has named a time for it. Gives the next such time. */
  const lookAgain = () => {
    let next = Number.POSITIVE_INFINITY
    for (const slots of queues.values()) {
      if (slots.lookAgain(now())) options.call()
      next = Math.min(next, slots.againAt)
    }
    return next
  }

  yield* Effect.gen(function*() {
    let pollAt = 0
    let failures = 0
    while (true) {
      rearm.closeUnsafe()
      shed()
      const againAt = lookAgain()
      const next = Math.min(dueAt, pollAt)
      if (next > now()) {
        const wait = Math.min(
          Math.min(next, againAt) - now(),
          holdsReady() ? shedInterval : Number.POSITIVE_INFINITY
        )
        // Whole milliseconds: a timer that fires a fraction too early would only come back here.
        yield* Effect.raceFirst(Effect.sleep(Duration.millis(Math.max(0, Math.ceil(wait)))), rearm.await)
        continue
      }
      const at = now()
      if (at >= pollAt) pollAt = at + pollFloor * (0.8 + 0.4 * (yield* Random.next))
      // Set before the look, so that a wake-up during it can still lower it.
      dueAt = Number.POSITIVE_INFINITY
      if (queues.size === 0 || !options.claiming()) continue
      const result = yield* backoff.attempt(broker.promote([...queues.keys()]))
      if (result._tag === "Success") {
        failures = 0
        if (result.success !== undefined) dueAt = Math.min(dueAt, now() + result.success)
        for (const slots of queues.values()) slots.call()
        options.call()
      } else {
        yield* Effect.annotateLogs(Effect.logWarning("look for due tasks failed"), result.failure.annotations)
        // Meanwhile it goes on handing back, and claiming again.
        yield* Effect.forkChild(Effect.andThen(backoff.wait(failures++, result.failure), Effect.sync(lookNow)))
      }
    }
  }).pipe(forkLoop)

  return {
    /** A task is due at this time, by the monotonic clock. */
    lookAt,
    /** Hints may have been missed. */
    lookNow,
    /** What is held ready, or when to claim again, has changed. */
    rearm: () => rearm.openUnsafe()
  }
})
