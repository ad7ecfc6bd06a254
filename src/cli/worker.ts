/** `horsies worker`: runs the handlers of a module until it is told to stop. */
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Health from "../Health.ts"
import * as PostgresBroker from "../PostgresBroker.ts"
import * as PostgresConfig from "../PostgresConfig.ts"
import * as Worker from "../Worker.ts"
import { fail, refuse } from "./ending.ts"
import * as HealthServer from "./healthServer.ts"
import * as Module from "./module.ts"

/** A bare number means seconds. */
const duration = (text: string) =>
  Duration.fromInput((/^\s*\d+(\.\d+)?\s*$/.test(text) ? `${text.trim()} seconds` : text) as Duration.Input)

const isPositive = (count: number) => count >= 1

const options = {
  module: Flag.String("module").pipe(
    Flag.withDescription("The module with the handlers: every export that is a layer counts")
  ),
  processes: Flag.Int("processes").pipe(
    Flag.withDescription("Run the handlers in so many child processes instead of this one"),
    Flag.filter(isPositive, () => "Expected a number of at least 1"),
    Flag.optional
  ),
  queues: Flag.String("queues").pipe(
    Flag.withDescription("The queues to serve, with commas between them; without it, the queues of all handlers"),
    Flag.map((text) => text.split(",").map((name) => name.trim()).filter((name) => name !== "")),
    Flag.filter((names) => names.length > 0, () => "Expected the names of queues"),
    Flag.optional
  ),
  concurrency: Flag.Int("concurrency").pipe(
    Flag.withDescription("How many tasks of a queue run at once, in each process"),
    Flag.filter(isPositive, () => "Expected a number of at least 1"),
    Flag.withDefault(10)
  ),
  shutdownTimeout: Flag.String("shutdown-timeout").pipe(
    Flag.withDescription("How long running handlers may go on after SIGTERM, such as \"30 seconds\""),
    Flag.filterMap(duration, () => "Expected a duration, such as \"30 seconds\""),
    Flag.withDefault(Duration.seconds(30))
  ),
  healthPort: Flag.Int("health-port").pipe(
    Flag.withDescription("Serve /health (alive) and /ready (connected) on this port"),
    Flag.filter((port) => port >= 0 && port <= 65_535, () => "Expected a number from 0 to 65535"),
    Flag.optional
  )
}

interface Given {
  readonly module: string
  readonly processes: Option.Option<number>
  readonly queues: Option.Option<ReadonlyArray<string>>
  readonly concurrency: number
  readonly shutdownTimeout: Duration.Duration
  readonly healthPort: Option.Option<number>
}

const program = Effect.fnUntraced(function*(given: Given) {
  const module = yield* Module.find(given.module)
  const inChildren = Option.map(given.processes, (count): Worker.Processes => ({ module, count }))
  const handlers = Option.isSome(inChildren) ? Layer.empty : yield* Module.layersOf(module)
  const worker = Worker.layer({
    concurrency: given.concurrency,
    shutdownTimeout: given.shutdownTimeout,
    queues: Option.getOrUndefined(
      Option.map(given.queues, (names) => Object.fromEntries(names.map((name) => [name, {}])))
    ),
    processes: Option.getOrUndefined(inChildren)
  })
  const server = Option.match(given.healthPort, { onNone: () => Layer.empty, onSome: HealthServer.layer })
  const ready = Layer.effectDiscard(
    Effect.flatMap(
      Effect.flatMap(Worker.Worker, ({ status }) => status),
      ({ id }) => Effect.annotateLogs(Effect.logInfo("the worker is ready"), { worker: id, pid: process.pid })
    )
  )

  return ready.pipe(
    Layer.provideMerge(server),
    Layer.provideMerge(handlers),
    Layer.provideMerge(worker),
    Layer.provide(Health.layer),
    Layer.provide(PostgresBroker.layerWorker),
    Layer.provide(PostgresConfig.layerConfig)
  )
})

/** `stopped` is run when the worker has ended as it was told to. */
export const command = (stopped: Effect.Effect<void>) =>
  Command.make("worker", options, (given) =>
    Effect.flatMap(program(given), Worker.launch).pipe(
      Effect.onInterrupt(() => stopped),
      Effect.catchTags({
        ModuleError: ({ message }) => refuse(message),
        LayersFailed: ({ message }) => fail(message),
        ChildModuleError: ({ message }) => refuse(message),
        PostgresConfigError: ({ message }) => refuse(message),
        ConfigError: ({ message }) => refuse(message),
        // Whoever supervises it may start it again: the database may be back by then.
        BrokerError: ({ isRetryable, reason }) => (isRetryable ? fail : refuse)(`the database: ${reason.message}`),
        ServeError: ({ cause }) => refuse(`the health port: ${cause}`)
      })
    )).pipe(Command.withDescription("Runs the handlers of a module until SIGTERM or SIGINT"))
