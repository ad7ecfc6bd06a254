/** The service of `DatabaseClock.ts`, apart from its layer: who only asks whether it is there need not load a driver. */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type { BrokerError } from "../../Broker.ts"

/** How time passes. */
export interface AdvanceOptions {
  /**
   * How far the clocks move at a time. Default: a sixth of the shortest lease of a worker that counts as alive, so that it
   * can renew its lease on the way; without such a worker, all the way at once.
   */
  readonly step?: Duration.Input | undefined
}

/** The clock of a test's own database. */
export class DatabaseClock extends Context.Service<DatabaseClock, {
  /** What the database's clock says: milliseconds since the epoch. */
  readonly now: Effect.Effect<number, BrokerError>
  /** Moves the database's clock alone. Nobody is woken. */
  readonly move: (duration: Duration.Input) => Effect.Effect<void, BrokerError>
  /** See `DatabaseClock.advance`. */
  readonly advance: (duration: Duration.Input, options?: AdvanceOptions) => Effect.Effect<void, BrokerError>
}>()("effect-horsies/testing/DatabaseClock") {}
