/** Handlers whose runs are not fibers of the worker's own process. */
import type * as Effect from "effect/Effect"
import type { AttemptEnd, ClaimedTask } from "../Broker.ts"
import type { Handler } from "../Task.ts"
import type { Why } from "./Runner.ts"

/** A claimed task that is to run elsewhere. */
export interface RunElsewhere {
  readonly task: ClaimedTask
  /** The identity of the worker under which it was claimed. */
  readonly worker: string
  /** Milliseconds from its due time to its dispatch: the wait for a process that has room is not in it. */
  readonly waited: number
  /** Its handler begins now: its time counts from here. */
  readonly begins: () => void
  /** Why this worker interrupts it, once it does. */
  readonly why: () => Why | undefined
}

/** A handler that runs elsewhere. */
export interface ElsewhereHandler extends Handler {
  /**
   * Runs tasks, in one call of their handler. Gives an end for each, in their order; none for one that is recorded
   * already, or that is to be handed back. It ends interrupted when the worker's interruption has ended it there.
   */
  readonly elsewhere: (runs: ReadonlyArray<RunElsewhere>) => Effect.Effect<ReadonlyArray<AttemptEnd | undefined>>
}

export const isElsewhere = (handler: Handler): handler is ElsewhereHandler => "elsewhere" in handler
