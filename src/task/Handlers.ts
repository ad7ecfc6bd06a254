/** The place where handlers meet a worker. */
import type * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { AttemptEnd, ClaimedTask, Definition, Failure } from "../Broker.ts"

/** A claimed task that is to run now. */
export interface Starting {
  readonly task: ClaimedTask
  /** Milliseconds from its due time to its start. */
  readonly waited: number
}

/** One registered handler, as a worker runs it. */
export interface Handler {
  /** What the worker makes known of it. */
  readonly definition: Definition
  /** Whether its attempts run inside a database transaction together with their completion. */
  readonly transaction: boolean
  /**
   * Decodes, runs, encodes. Only the handler itself can be interrupted: what it has come to is not lost when an
   * interruption comes too late. Being interrupted is the only way in which it does not succeed.
   */
  readonly run: (task: ClaimedTask, waited: number) => Effect.Effect<AttemptEnd>
  /** The same for many tasks in one call of the handler, with an end for each, in their order. */
  readonly batch:
    | {
      readonly size: number
      readonly run: (tasks: ReadonlyArray<Starting>) => Effect.Effect<ReadonlyArray<AttemptEnd>>
    }
    | undefined
  /** How an attempt ends that failed without a word of its handler: by the retry policy of the definition. */
  readonly failed: (task: ClaimedTask, failure: Failure) => Effect.Effect<AttemptEnd>
  /** How an attempt ends whose handler was interrupted by nobody but itself. */
  readonly interruptedItself: (task: ClaimedTask, cause: Cause.Cause<never>) => Effect.Effect<AttemptEnd>
}

/** Where handlers register: a worker. `Worker.layer` provides it. */
export class Handlers extends Context.Service<Handlers, {
  /** Whether the worker's broker can run an attempt inside a database transaction. */
  readonly transactions: boolean
  /**
   * Adds a handler until the scope closes. Closing the scope stops claims for it and waits for, or interrupts, its runs
   * before it returns, so that what the handler uses can be closed after it.
   */
  readonly register: (handler: Handler) => Effect.Effect<void, never, Scope.Scope>
}>()("effect-horsies/Task/Handlers") {}
