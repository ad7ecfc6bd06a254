import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Layer, Schema } from "effect"
import { EmbeddedPostgres, PostgresBroker, PostgresConfig, Task, Worker } from "effect-horsies"

// What there is to do: a name, what goes in, what comes out.
class Greet extends Task.make("Greet", { payload: { name: Schema.String }, success: Schema.String }) {}

// How it is done. A worker runs it, in this process or in any other that uses the same database.
const GreetLive = Greet.toLayer(({ name }) => Effect.succeed(`Hello, ${name}!`))

const program = Effect.gen(function*() {
  const handle = yield* Greet.send({ name: "Ada" }) // succeeds once the task is on disk
  yield* Console.log(yield* handle.await)
})

// A PostgreSQL server that lives as long as the program. With your own: `PostgresBroker.layerConfig` and DATABASE_URL.
const Broker = Layer.unwrap(Effect.gen(function*() {
  const { url } = yield* EmbeddedPostgres.EmbeddedPostgres
  return Layer.provide(PostgresBroker.layer, PostgresConfig.layer({ databaseUrl: url }))
})).pipe(Layer.provide(EmbeddedPostgres.layer()))

const Live = GreetLive.pipe(Layer.provideMerge(Worker.layer()), Layer.provideMerge(Broker))

program.pipe(Effect.provide(Live), NodeRuntime.runMain)
