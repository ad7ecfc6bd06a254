/**
 * The checksums of all files below a folder: one task for each file, worked off in the same process.
 *
 *     npm start -- [--json] [--database-url URL] [--concurrency N] [FOLDER]
 *
 * It ends with 0 when every file was read, with 1 when some could not be, and with 2 when there was nothing to begin with:
 * no such folder, no database, a wrong option.
 *
 * The digest at the end is the SHA-256 of a line `<sha256>  <path>` for each file, sorted by the bytes of the paths. The
 * same with coreutils (without -z, sha256sum would write the names that contain a newline or a backslash differently):
 *
 *     cd FOLDER && find . -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum -z | LC_ALL=C sed -z 's|  \./|  |' |
 *       tr '\0' '\n' | sha256sum
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Config, Console, Effect, Layer, Logger, Option, type Redacted, Runtime, Schema } from "effect"
import { EmbeddedPostgres, PostgresBroker, PostgresConfig, Worker } from "effect-horsies"
import { Argument, CliOutput, Command, Flag } from "effect/cli"
import { ChecksumLive } from "./Checksum.ts"
import * as FileName from "./FileName.ts"
import * as Job from "./job.ts"
import * as Progress from "./progress.ts"
import { Stop } from "./Stop.ts"
import * as Summary from "./summary.ts"
import { Tally } from "./Tally.ts"
import * as Walk from "./walk.ts"

/** Ends the process with this code; what there is to say has been said. */
class Exit extends Schema.TaggedError<Exit>()("Exit", { code: Schema.Int }) {
  override readonly [Runtime.errorExitCode] = this.code
  override readonly [Runtime.errorReported] = false
}

/** One line, whatever there is to say. */
const complain = (message: string) => Console.error(`checksums: ${message.trim().replaceAll(/\s*\n\s*/g, " ")}`)

const refuse = (message: string) => Effect.andThen(complain(message), new Exit({ code: 2 }))

const options = {
  folder: Argument.String("folder").pipe(
    Argument.withDescription("Where the files are"),
    Argument.withDefault("node_modules/effect/src")
  ),
  json: Flag.Boolean("json").pipe(
    Flag.withDescription("End with a line of JSON"),
    Flag.withDefault(false)
  ),
  databaseUrl: Flag.Redacted("database-url").pipe(
    Flag.withDescription("The PostgreSQL to use; without it and DATABASE_URL, one is started for the run"),
    Flag.withFallbackConfig(Config.Redacted("DATABASE_URL")),
    Flag.optional
  ),
  concurrency: Flag.Int("concurrency").pipe(
    Flag.withDescription("How many files are read at once"),
    Flag.filter((count) => count >= 1 && count <= 1000, () => "Expected a number from 1 to 1000"),
    Flag.withDefault(16)
  )
}

const Embedded = Layer.unwrap(
  Effect.map(EmbeddedPostgres.EmbeddedPostgres, ({ url }) => PostgresConfig.layer({ databaseUrl: url }))
).pipe(Layer.provide(EmbeddedPostgres.layer()))

const Workers = (databaseUrl: Option.Option<Redacted.Redacted>, concurrency: number) =>
  ChecksumLive.pipe(
    // The job has waited for its tasks by then: what still runs after a Ctrl-C is not worth a longer wait.
    Layer.provide(Worker.layer({ concurrency, shutdownTimeout: "500 millis" })),
    Layer.provideMerge(Layer.merge(PostgresBroker.layer, Stop.layer)),
    Layer.provide(Option.match(databaseUrl, {
      onNone: () => Embedded,
      // A wrong address is to be known within five seconds, and one of them is for the start of the process.
      onSome: (databaseUrl) => PostgresConfig.layer({ databaseUrl, connectTimeout: "4 seconds" })
    }))
  )

const checksums = Command.make(
  "checksums",
  options,
  Effect.fnUntraced(function*({ concurrency, databaseUrl, folder, json }) {
    const root = FileName.fromUser(folder)
    yield* Effect.catch(Walk.check(root), ({ message }) => refuse(`${FileName.display(root)}: ${message}`))

    const tally = new Tally()
    yield* Progress.show(tally).pipe(
      Effect.andThen(Job.run(root, tally)),
      Effect.scoped,
      Effect.provide(Workers(databaseUrl, concurrency)),
      Effect.onInterrupt(() => complain(`stopped after ${tally.completed} of ${tally.files} files`))
    )

    for (const { path, reason } of tally.problems) yield* complain(`${FileName.display(path)}: ${reason}`)
    yield* Console.log(Summary.table(tally))
    if (json) yield* Console.log(Summary.json(tally))
    if (tally.problems.length > 0) return yield* new Exit({ code: 1 })
  })
)

// Finalizers can hang, on a server that does not answer, say. Who presses Ctrl-C has not the time to wait for that.
for (const signal of ["SIGINT", "SIGTERM"]) {
  process.once(signal, () => setTimeout(() => process.exit(130), 3000).unref())
}

checksums.pipe(
  Command.run({ version: "0.1.0" }),
  Effect.catchTags({
    ShowHelp: ({ errors }) =>
      errors.length === 0 ? Effect.void : refuse(errors.map(({ message }) => message).join("; ")),
    PostgresConfigError: ({ message }) => refuse(message),
    EmbeddedPostgresError: ({ message }) => refuse(message),
    BrokerError: ({ reason }) => refuse(`the database: ${reason.message}`)
  }),
  // The help is for those who ask for it; who mistypes an option gets the line above.
  Effect.provideService(CliOutput.Presenter, {
    present: (event) => event._tag === "InvalidInvocation" ? Effect.void : CliOutput.defaultPresenter.present(event)
  }),
  Effect.provideService(Logger.LogToStderr, true),
  Effect.provide(NodeServices.layer),
  NodeRuntime.runMain
)
