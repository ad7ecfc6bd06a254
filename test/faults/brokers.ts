/** Brokers as several processes would have them, over settings that the tests choose. */
import type { PgClient } from "@effect/sql-pg/PgClient"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { SqlClient } from "effect/sql/SqlClient"
import type { Broker, BrokerError, BrokerErrorReason } from "../../src/Broker.ts"
import type { SessionListener } from "../../src/connection/SessionListener.ts"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"

/** A broker with its own connections. */
export const make = (
  options: PostgresConfig.Options
): Effect.Effect<
  Context.Context<Broker | SqlClient | PgClient | SessionListener>,
  BrokerError | PostgresConfig.PostgresConfigError,
  Scope.Scope
> => Layer.build(Layer.fresh(Layer.provide(PostgresBroker.layer, PostgresConfig.layer(options))))

/** Why there is no broker with these settings. */
export const refusal = (options: PostgresConfig.Options): Effect.Effect<BrokerErrorReason> =>
  Effect.flip(Effect.scoped(make(options))).pipe(
    Effect.flatMap((error) => error._tag === "BrokerError" ? Effect.succeed(error.reason) : Effect.die(error)),
    Effect.catch(() => Effect.die(new Error("there is a broker")))
  )
