/**
 * Who is measured. Every contestant has two processes of its own, one that sends and one that works, so that nobody's
 * heap or compiled code is in the way of another's.
 */
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"

/** The contestants by name, loaded by their own processes only. */
export const contestants = {
  ours: () => import("./contestants/ours.ts"),
  raw: () => import("./contestants/raw.ts"),
  graphileTuned: () => import("./contestants/graphileTuned.ts")
}

export type Name = keyof typeof contestants

/** A task that does nothing carries its number, from 0 on. */
export interface Payload {
  readonly n: number
}

export interface Contestant {
  /** Makes the tables in an empty database and connects. What it succeeds with stores tasks, a thousand per statement. */
  readonly sender: (
    url: string
  ) => Effect.Effect<(payloads: ReadonlyArray<Payload>) => Effect.Effect<void, unknown>, unknown, Scope.Scope>
  /** Starts a worker that calls `ran` for every task. It stops with the scope. */
  readonly worker: (url: string, ran: (n: number) => void) => Effect.Effect<void, unknown, Scope.Scope>
}

/** Tasks per statement of a sender. */
export const batchSize = 1000
