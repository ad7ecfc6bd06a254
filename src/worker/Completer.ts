/**
 * Records ended attempts: whatever has gathered while the last flush was under way goes out together. A lone attempt
 * never waits for company.
 */
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Queue from "effect/Queue"
import type { Broker, ClaimedTask, EndedAttempt, Want } from "../Broker.ts"
import { attempt, backoff } from "./attempt.ts"

/** The most attempts in one flush. */
const most = 1000

/** A flush of up to this many attempts claims in the same statement; a larger one runs beside the claim. */
const mostFused = 50

/** An attempt that has ended under an identity of the worker, by the worker's monotonic clock. */
export interface Ended extends Omit<EndedAttempt, "elapsed"> {
  readonly worker: string
  readonly startedAt: number
}

/** The other side of a fused statement: what the dispatcher wants, and where its claims go. */
export interface Claims {
  /** What to claim for this identity, if a claim is due and none is under way. The answer must be given back. */
  readonly begin: (worker: string) => ReadonlyArray<Want>
  readonly end: (worker: string, claimed: ReadonlyArray<ClaimedTask>) => void
  readonly abort: () => void
  /** A slot is free: claim apart. */
  readonly call: () => void
}

export const make = Effect.fnUntraced(function*(
  broker: Broker["Service"],
  claims: Claims,
  now: () => number
) {
  const ended = yield* Queue.unbounded<Ended>()
  const idle = yield* Latch.make(true)
  const unrecorded = new Set<Ended>()

  const record: (worker: string, batch: ReadonlyArray<Ended>) => Effect.Effect<void> = Effect.fnUntraced(function*(
    worker,
    batch
  ) {
    for (let failures = 0;; failures++) {
      const wants = batch.length <= mostFused ? claims.begin(worker) : []
      if (wants.length === 0) claims.call()
      const at = now()
      const attempts = batch.map(({ end, fence, id, startedAt }) => ({ id, fence, end, elapsed: at - startedAt }))
      const result = yield* attempt(broker.finish(worker, attempts, wants))
      if (result._tag === "Success") {
        if (wants.length > 0) claims.end(worker, result.success.claimed)
        const refused = batch.length - result.success.accepted.size
        // After a failure they may have been recorded by the try whose answer was lost.
        if (refused > 0 && failures === 0) {
          yield* Effect.annotateLogs(Effect.logWarning("attempts not recorded: their claims were taken away"), {
            refused
          })
        }
        return
      }
      if (wants.length > 0) claims.abort()
      if (!result.failure.isRetryable && batch.length > 1) {
        // One of them may be the reason: the others must not suffer.
        yield* Effect.forEach(batch, (one) => record(worker, [one]), { discard: true })
        return
      }
      const [first] = batch
      if (!result.failure.isRetryable && first?.end._tag === "Completed") {
        // What the handler succeeded with cannot be stored, and its caller has to know.
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
      yield* Effect.sleep(yield* backoff(failures))
    }
  })

  yield* Queue.takeBetween(ended, 1, most).pipe(
    Effect.flatMap(Effect.fnUntraced(function*(batch) {
      // Almost always one identity; two after a lost lease.
      for (const worker of new Set(batch.map((one) => one.worker))) {
        yield* record(worker, batch.filter((one) => one.worker === worker))
      }
      for (const one of batch) unrecorded.delete(one)
      if (unrecorded.size === 0) idle.openUnsafe()
    })),
    Effect.forever,
    Effect.forkScoped
  )

  return {
    offer: (one: Ended) => {
      unrecorded.add(one)
      idle.closeUnsafe()
      Queue.offerUnsafe(ended, one)
    },
    unrecorded: (): Iterable<Ended> => unrecorded,
    /** Waits until everything offered so far has been recorded. */
    flushed: idle.await
  }
})

export type Completer = Effect.Success<ReturnType<typeof make>>
