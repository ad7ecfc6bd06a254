/** Hands back claims that have not started: whatever has gathered while the last request was under way goes out together. */
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Queue from "effect/Queue"
import type { Broker, ClaimedTask } from "../Broker.ts"
import { attemptOnce } from "./attempt.ts"
import { forkLoop } from "./loops.ts"
import { notHandedBack } from "./messages.ts"

/** The most claims in one request. */
const most = 1000

/** A claim, with the identity of the worker under which it was made. */
interface Claim {
  readonly worker: string
  readonly task: ClaimedTask
}

/** `onFailure` is told when claims may stand that nobody here knows any more. */
export const make = Effect.fnUntraced(function*(broker: Broker["Service"], onFailure: () => void) {
  const claims = yield* Queue.unbounded<Claim>()
  const idle = yield* Latch.make(true)
  let left = 0

  yield* Effect.gen(function*() {
    const batch = yield* Queue.takeBetween(claims, 1, most)
    for (const worker of new Set(batch.map((one) => one.worker))) {
      const holds = batch.filter((one) => one.worker === worker).map((one) => one.task)
      if (!(yield* attemptOnce(broker.release(worker, holds), notHandedBack))) onFailure()
    }
    left -= batch.length
    if (left === 0) idle.openUnsafe()
  }).pipe(Effect.forever, forkLoop)

  return {
    offer: (worker: string, tasks: ReadonlyArray<ClaimedTask>) => {
      for (const task of tasks) {
        left++
        idle.closeUnsafe()
        Queue.offerUnsafe(claims, { worker, task })
      }
    },
    /** Waits until everything has been handed back. */
    done: idle.await
  }
})
