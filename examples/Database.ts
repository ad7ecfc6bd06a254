/** Where some of the examples keep their tasks. */
import { Config, Effect, Layer, Option } from "effect"
import { EmbeddedPostgres, PostgresBroker, PostgresConfig } from "effect-horsies"

/** On a server that lives as long as the program, or in the empty database that EXAMPLE_DATABASE_URL names. */
export const Broker = Layer.unwrap(Effect.gen(function*() {
  return Option.match(yield* Config.option(Config.Redacted("EXAMPLE_DATABASE_URL")), {
    onNone: () => Layer.provide(PostgresBroker.layerConfig, EmbeddedPostgres.layerDatabaseUrl()),
    onSome: (databaseUrl) => Layer.provide(PostgresBroker.layer, PostgresConfig.layer({ databaseUrl }))
  })
}))
