/** `npm run bench -- --suite drain`: measures the broker beside its own bare statements and beside graphile-worker. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { PgClient } from "@effect/sql-pg/PgClient"
import * as Cause from "effect/Cause"
import * as CliError from "effect/cli/CliError"
import * as CliOutput from "effect/cli/CliOutput"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import { inspectInto } from "./inspect.ts"
import * as Machine from "./machine.ts"
import * as Report from "./report.ts"
import * as Server from "./server.ts"
import * as Suite from "./suite.ts"

const names = Object.keys(Suite.suites) as Array<keyof typeof Suite.suites>

const bench = Command.make(
  "bench",
  {
    suite: Flag.Literals("suite", names).pipe(Flag.withDescription("What to measure")),
    runs: Flag.Int("runs").pipe(
      Flag.withDefault(5),
      Flag.filter((runs) => runs >= 1, () => "write a whole number of at least 1"),
      Flag.withDescription("Rounds that count; one more comes before them")
    ),
    tasks: Flag.Int("tasks").pipe(
      Flag.withDefault(50_000),
      Flag.filter((tasks) => tasks >= 1, () => "write a whole number of at least 1"),
      Flag.withDescription("Tasks per contestant and round")
    ),
    json: Flag.Boolean("json").pipe(
      Flag.withDefault(false),
      Flag.withDescription("End with one line of JSON: the medians in tasks per second")
    ),
    profile: Flag.String("profile").pipe(
      Flag.withMetavar("folder"),
      Flag.optional,
      Flag.withDescription(
        "Write a CPU profile of each worker and the server's time per statement, of the last round; this slows it down"
      )
    )
  },
  Effect.fnUntraced(function*(options) {
    const suite: Suite.Suite = Suite.suites[options.suite]
    const folder = Option.getOrUndefined(options.profile)
    const sql = yield* PgClient
    yield* Console.log(`${options.tasks.toLocaleString("en")} ${suite.title}`)
    yield* Console.log(`${suite.rule}; ${options.runs} rounds after a warm-up\n`)
    yield* Console.log(`${yield* Machine.describe(sql)}\n`)
    const results = yield* Suite.run(suite, {
      tasks: options.tasks,
      runs: options.runs,
      inspect: folder === undefined ? undefined : inspectInto(folder)
    })
    yield* Console.log(`\n${Report.table(suite, results)}`)
    if (options.json) yield* Console.log(Report.json(suite, results))
  })
).pipe(
  Command.withDescription("Measures effect-horsies beside its own bare statements and beside graphile-worker"),
  Command.provide(({ profile }) => Server.layer({ profiled: Option.isSome(profile) }))
)

/** One line instead of the whole help for a command that was mistyped. */
const Presenter = CliOutput.layerPresenter({
  present: (event) =>
    event._tag === "InvalidInvocation"
      ? Effect.forEach(event.errors, (error) => Console.error(`bench: ${error.message.replaceAll(/\s*\n\s*/g, " ")}`), {
        discard: true
      })
      : CliOutput.defaultPresenter.present(event)
})

/** 2 for a mistyped command, 1 for everything else that fails. */
const teardown: typeof Runtime.defaultTeardown = (exit, onExit) => {
  const failure = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
  const mistyped = CliError.isCliError(failure) && failure._tag === "ShowHelp" && failure.errors.length > 0
  Runtime.defaultTeardown(exit, (code) => onExit(mistyped ? 2 : code))
}

Command.run(bench, { version: "0" }).pipe(
  Effect.tapError((error) =>
    CliError.isCliError(error) ? Effect.void : Console.error(`bench: ${error instanceof Error ? error.message : error}`)
  ),
  Effect.provide(Layer.merge(NodeServices.layer, Presenter)),
  NodeRuntime.runMain({ disableErrorReporting: true, teardown })
)
