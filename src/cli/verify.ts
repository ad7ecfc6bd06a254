/**
 * `horsies verify`: tortures a broker and checks that nothing is lost, doubled or late.
 *
 * It works in a PostgreSQL schema of its own, which it removes again unless a rule was broken: then it says what happened to
 * the tasks in question, and where the files of the processes are. On a server of the user's
 * it restarts nothing without `--restart-command`, and ends no backend but its own.
 */
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { randomInt } from "node:crypto"
import * as Report from "../verify/report.ts"
import * as Verify from "../verify/verify.ts"
import { Exit, fail, refuse } from "./ending.ts"

const flags = {
  seconds: Flag.Int("seconds").pipe(
    Flag.withDescription("How long tasks are sent and faults happen"),
    Flag.filter((seconds) => seconds >= 1, () => "Expected a number of at least 1"),
    Flag.withDefault(60)
  ),
  seed: Flag.Int("seed").pipe(
    Flag.withDescription("Chooses the tasks and the faults; without it, chance does"),
    Flag.optional
  ),
  json: Flag.Boolean("json").pipe(Flag.withDescription("End with a line of JSON"), Flag.withDefault(false)),
  databaseUrl: Flag.Redacted("database-url").pipe(
    Flag.withDescription("The server itself; without it, one is started for the run"),
    Flag.optional
  ),
  poolerUrl: Flag.Redacted("pooler-url").pipe(
    Flag.withDescription("A pooler in transaction mode in front of that server"),
    Flag.optional
  ),
  restartCommand: Flag.String("restart-command").pipe(
    Flag.withDescription("Restarts that server; finds \"fast\" or \"immediate\" in $1"),
    Flag.optional
  ),
  workers: Flag.Int("workers").pipe(
    Flag.withDescription("Worker processes"),
    Flag.filter((workers) => workers >= 2 && workers <= 64, () => "Expected a number from 2 to 64"),
    Flag.withDefault(4)
  ),
  children: Flag.Int("children").pipe(
    Flag.withDescription("Child processes of each worker; 0: workers run the handlers themselves"),
    Flag.filter((children) => children >= 0 && children <= 64, () => "Expected a number from 0 to 64"),
    Flag.withDefault(2)
  ),
  rate: Flag.Int("rate").pipe(
    Flag.withDescription("Tasks that are sent per second"),
    Flag.filter((rate) => rate >= 1, () => "Expected a number of at least 1"),
    Flag.withDefault(450)
  )
}

/** The command, to be put among others. It ends with exit code 1 when a rule was broken. */
export const verify = Command.make(
  "verify",
  flags,
  Effect.fnUntraced(function*({ databaseUrl, json, poolerUrl, restartCommand, seed, ...options }) {
    const { evidence, folder, from, report } = yield* Verify.run({
      ...options,
      seed: Option.getOrElse(seed, () => randomInt(2 ** 31)),
      databaseUrl: Option.getOrUndefined(databaseUrl),
      poolerUrl: Option.getOrUndefined(poolerUrl),
      restartCommand: Option.getOrUndefined(restartCommand),
      onFault: (fault, from) => Console.log(Report.faultLine(from, fault)),
      onStep: Console.log
    })
    yield* Console.log(Report.text(report, evidence, from))
    if (folder !== undefined) yield* Console.log(`the files of the run are in ${folder}`)
    if (json) yield* Console.log(Report.json(report, evidence))
    if (report.violations.length > 0) return yield* new Exit({ code: 1 })
  }, (run) =>
    Effect.catchTags(run, {
      VerifyError: ({ message }) => refuse(message),
      PostgresConfigError: ({ message }) => refuse(message),
      BrokerError: ({ reason }) => refuse(`the database: ${reason.message}`),
      SqlError: ({ message }) => fail(`the database: ${message}`)
    }))
).pipe(
  Command.withDescription("Tortures a broker, and checks that nothing is lost, doubled or late")
)
