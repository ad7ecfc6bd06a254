import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Layer, Schema } from "effect"
import { EmbeddedPostgres, PostgresBroker, PostgresConfig, Task, Worker } from "effect-horsies"

class Greet extends Task.make("Greet", { payload: { name: Schema.String }, success: Schema.String }) {}

const program = Effect.gen(function*() {
  const handle = yield* Greet.send({ name: "Ada" })
  yield* Console.log(yield* handle.await)
})

const Settings = Layer.unwrap(Effect.gen(function*() {
  const { url } = yield* EmbeddedPostgres.EmbeddedPostgres
  return PostgresConfig.layer({ databaseUrl: url })
})).pipe(Layer.provide(EmbeddedPostgres.layer()))

const Live = Greet.toLayer(({ name }) => Effect.succeed(`Hello, ${name}!`)).pipe(
  Layer.provideMerge(Worker.layer()),
  Layer.provideMerge(PostgresBroker.layer),
  Layer.provide(Settings)
)

program.pipe(Effect.provide(Live), NodeRuntime.runMain)
