/** PostgreSQL's own programs as child processes: started, watched, ended. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import { spawn as nodeSpawn } from "node:child_process"
import { type EmbeddedPostgresError, setupFailed } from "./failure.ts"
import type { Keeper } from "./keeper.ts"
import { runAs } from "./user.ts"

/** A program of PostgreSQL that runs, or did. */
export interface Program {
  readonly pid: number
  /** Done when it and all its children have ended, with how: `code 1`, `signal SIGKILL`. */
  readonly ended: Effect.Effect<string>
  readonly hasEnded: () => boolean
  readonly signal: (signal: NodeJS.Signals) => void
  /** The end of what it wrote to stdout and stderr. */
  readonly log: () => string
}

/** How much of a program's output is kept for error messages. */
const logLength = 8_192

/** Starts a program under the eye of the keeper. */
export const spawn = (keeper: Keeper, command: string, args: ReadonlyArray<string>) =>
  Effect.callback<Program, EmbeddedPostgresError>((resume) => {
    const child = nodeSpawn(command, args, {
      ...runAs(keeper.user, keeper.folder),
      stdio: ["ignore", "pipe", "pipe"]
    })
    const { pid } = child
    let log = ""
    const append = (text: string) => {
      log = (log + text).slice(-logLength)
    }
    child.stdout.setEncoding("utf8").on("data", append)
    child.stderr.setEncoding("utf8").on("data", append)
    const ended = Deferred.makeUnsafe<string>()
    // "close" rather than "exit": it comes when the last process that holds the output has ended, so no backend of a
    // killed server still uses the data directory.
    child.once("close", (code, signal) => {
      keeper.forget(pid)
      Deferred.doneUnsafe(ended, Effect.succeed(signal === null ? `code ${code}` : `signal ${signal}`))
    })
    child.once("error", (cause) => resume(Effect.fail(setupFailed(`cannot run ${command}: ${cause.message}`, cause))))
    if (pid === undefined) return
    keeper.watch(pid)
    resume(Effect.succeed({
      pid,
      ended: Deferred.await(ended),
      hasEnded: () => Deferred.isDoneUnsafe(ended),
      signal: (signal) => void child.kill(signal),
      log: () => log.trim()
    }))
  })

/** Signals and how long each may take, politest first. */
export type Persuasion = ReadonlyArray<readonly [signal: NodeJS.Signals, milliseconds: number]>

/** Makes a program end; waits for it. The last signal is always SIGKILL. */
export const end = (program: Program, persuasion: Persuasion) =>
  Effect.gen(function*() {
    for (const [signal, milliseconds] of [...persuasion, ["SIGKILL", 5_000] as const]) {
      if (program.hasEnded()) return
      program.signal(signal)
      yield* Effect.timeoutOption(program.ended, milliseconds)
    }
  })

/** Runs a program to its end; fails unless that is exit code 0. */
export const run = (keeper: Keeper, command: string, args: ReadonlyArray<string>, milliseconds: number) =>
  Effect.acquireUseRelease(
    spawn(keeper, command, args),
    (program) =>
      program.ended.pipe(
        Effect.timeoutOrElse({ duration: milliseconds, orElse: () => Effect.succeed("no end in time") }),
        Effect.flatMap((how) =>
          how === "code 0" ? Effect.void : Effect.fail(setupFailed(`${command} ended with ${how}\n${program.log()}`))
        )
      ),
    (program) => end(program, [])
  )
