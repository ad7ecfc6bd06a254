/**
 * Records ended attempts: whatever has gathered while the last flush was under way goes out together. A lone attempt
 * never waits for company.
 */
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Queue from "effect/Queue"
import type { Broker, Claims, EndedAttempt, Want } from "../Broker.ts"
import type { Backoff } from "./Backoff.ts"
import { forkLoop } from "./loops.ts"

/** The most attempts in one flush. */
const most = 1000

/** A flush of up to this many attempts claims in the same statement; a larger one runs beside the claim. */
const mostFused = 50

/** What one flush may carry of results, in characters. */
const mostCharacters = 4_000_000

/** With so many attempts unrecorded no more are to be started: a crash would run all of them again. */
const mostUnrecorded = 2 * most

/** An attempt that has ended under an identity of the worker, by the worker's monotonic clock. */
export interface Ended extends Omit<EndedAttempt, "elapsed"> {
  readonly worker: string
  /** None when its handler was not started. */
  readonly startedAt: number | undefined
}

/** The other side of a fused statement: what the dispatcher wants, and where its claims go. */
export interface Claiming {
  /** What to claim for this identity, if a claim is due and none is under way. The answer must be given back. */
  readonly begin: (worker: string) => ReadonlyArray<Want>
  readonly end: (worker: string, claimed: Claims) => Effect.Effect<void>
  readonly abort: () => void
  /** A slot is free: claim apart. */
  readonly call: () => void
}

export const make = Effect.fnUntraced(function*(
  broker: Broker["Service"],
  claims: Claiming,
  now: () => number,
  backoff: Backoff
) {
  const ended = yield* Queue.unbounded<Ended>()
  const idle = yield* Latch.make(true)
  const unrecorded = new Set<Ended>()
  let busy = false

  const record: (worker: string, batch: ReadonlyArray<Ended>) => Effect.Effect<void> = Effect.fnUntraced(function*(
    worker,
    batch
  ) {
    let alone = batch.length > mostFused
    for (let failures = 0;; failures++) {
      const wants = alone ? [] : claims.begin(worker)
      if (wants.length === 0) claims.call()
      const at = now()
      const attempts = batch.map(({ end, fence, id, startedAt }) => ({
        id,
        fence,
        end,
        elapsed: startedAt === undefined ? undefined : at - startedAt
      }))
      const result = yield* backoff.attempt(broker.finish(worker, attempts, wants))
      if (result._tag === "Success") {
        if (wants.length > 0) yield* claims.end(worker, result.success.claimed)
        const refused = batch.length - result.success.accepted.size
        // After a failure they may have been recorded by the try whose answer was lost.
        if (refused > 0 && failures === 0) {
          yield* Effect.annotateLogs(Effect.logWarning("attempts not recorded: their claims were taken away"), {
            refused
          })
        }
        return
      }
      if (wants.length > 0) {
        claims.abort()
        // It may have been the claim: before an attempt is blamed it is recorded without one.
        alone = true
        if (!result.failure.isRetryable) continue
      }
      if (!result.failure.isRetryable && batch.length > 1) {
        // One of them may be the reason: the others must not suffer.
        yield* Effect.forEach(batch, (one) => record(worker, [one]), { discard: true })
        return
      }
      const [first] = batch
      if (!result.failure.isRetryable && (first?.end._tag === "Completed" || first?.end._tag === "Retry")) {
        // What the handler came to cannot be stored, and whoever waits has to know.
        const value = JSON.stringify(`the result cannot be stored: ${result.failure.message}`)
        yield* record(worker, [{ ...first, end: { _tag: "Failed", failure: { kind: "Defect", value } } }])
        return
      }
      if (!result.failure.isRetryable) {
        yield* Effect.annotateLogs(
          Effect.logError("attempt not recorded: its task stays claimed until this worker ends"),
          {
            ...result.failure.annotations,
            task: first?.id
          }
        )
        return
      }
      yield* Effect.annotateLogs(Effect.logWarning("attempts not recorded yet"), result.failure.annotations)
      yield* backoff.wait(failures, result.failure)
    }
  })

  yield* Queue.takeBetween(ended, 1, most).pipe(
    Effect.flatMap(Effect.fnUntraced(function*(batch) {
      busy = true
      // Almost always one identity; two after a lost lease.
      for (const worker of new Set(batch.map((one) => one.worker))) {
        yield* Effect.forEach(parts(batch.filter((one) => one.worker === worker)), (part) => record(worker, part), {
          discard: true
        })
      }
      busy = false
      const wasBehind = unrecorded.size > mostUnrecorded
      for (const one of batch) unrecorded.delete(one)
      if (wasBehind) claims.call()
      if (unrecorded.size === 0) idle.openUnsafe()
    })),
    Effect.forever,
    forkLoop
  )

  return {
    offer: (one: Ended) => {
      unrecorded.add(one)
      idle.closeUnsafe()
      Queue.offerUnsafe(ended, one)
    },
    unrecorded: (): Iterable<Ended> => unrecorded,
    isBusy: () => busy,
    isBehind: () => unrecorded.size > mostUnrecorded,
    /** Waits until everything offered so far has been recorded. */
    flushed: idle.await
  }
})

export type Completer = Effect.Success<ReturnType<typeof make>>

const sizeOf = ({ end }: Ended) =>
  end._tag === "Completed" ? end.value.length : "failure" in end ? end.failure.value.length : 0

/** Parts of bounded size. Almost always one. */
const parts = (batch: ReadonlyArray<Ended>): ReadonlyArray<ReadonlyArray<Ended>> => {
  let total = 0
  for (const one of batch) total += sizeOf(one)
  if (total <= mostCharacters) return [batch]
  const found: Array<Array<Ended>> = []
  let room = 0
  for (const one of batch) {
    room -= sizeOf(one)
    if (room < 0) {
      found.push([])
      room = mostCharacters - sizeOf(one)
    }
    found.at(-1)!.push(one)
  }
  return found
}
