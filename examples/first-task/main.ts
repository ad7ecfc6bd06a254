import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Layer, Schema } from "effect"
import { EmbeddedPostgres, PostgresBroker, Task, Worker } from "effect-horsies"

// What there is to do: a name, what goes in, what comes out.
class Greet extends Task.make("Greet", { payload: { name: Schema.String }, success: Schema.String }) {}

// How it is done. A worker runs it, in this process or in any other that uses the same database.
const GreetLive = Greet.toLayer(({ name }) => Effect.succeed(`Hello, ${name}!`))

const program = Effect.gen(function*() {
  const handle = yield* Greet.send({ name: "Ada" }) // succeeds once the task is on disk
  yield* Console.log(yield* handle.await)
})

// On a PostgreSQL server that lives as long as the program. Without the last part: on the one that DATABASE_URL names.
const Broker = PostgresBroker.layerConfig.pipe(Layer.provide(EmbeddedPostgres.layerDatabaseUrl()))

const Live = GreetLive.pipe(Layer.provideMerge(Worker.layer()), Layer.provideMerge(Broker))

program.pipe(Effect.provide(Live), NodeRuntime.runMain)
