/** Running one of our programs as a real process of its own. */
import * as Effect from "effect/Effect"
import { spawn } from "node:child_process"
import { readFileSync } from "node:fs"
import { eventually } from "./eventually.ts"

/** A started program. */
export interface Program {
  readonly pid: number
  readonly output: () => string
  /** What it has written to its standard error. */
  readonly errors: () => string
  /** None while it runs, and when a signal has ended it. */
  readonly exitCode: () => number | null
  /** Waits for the first whole line of its standard output. */
  readonly firstLine: Effect.Effect<string>
  /** Sends a signal to itself alone, as a service manager does. */
  readonly signal: (signal: NodeJS.Signals) => Effect.Effect<void>
  /** Sends a signal to its whole process group, as a terminal does. */
  readonly signalGroup: (signal: NodeJS.Signals) => Effect.Effect<void>
  readonly ended: Effect.Effect<void>
}

/** What makes "effect-horsies/…" mean the sources rather than a build that may be missing or old. */
const sources = "--conditions=effect-horsies-source"

/** Starts a TypeScript program under this Node; whatever is left of it is killed with the scope. */
export const start = (
  file: string,
  options: { readonly args?: ReadonlyArray<string>; readonly env?: Readonly<Record<string, string>> } = {}
) =>
  Effect.acquireRelease(
    Effect.sync((): Program => {
      const child = spawn(process.execPath, [sources, file, ...(options.args ?? [])], {
        detached: true,
        env: { ...process.env, ...options.env },
        stdio: ["ignore", "pipe", "pipe"]
      })
      const pid = child.pid
      if (pid === undefined) throw new Error(`cannot start ${file}`)
      let output = ""
      let errors = ""
      let closed = false
      child.stdout.setEncoding("utf8").on("data", (text) => (output += text))
      child.stderr.setEncoding("utf8").on("data", (text) => (errors += text))
      child.once("close", () => (closed = true))
      return {
        pid,
        output: () => output,
        errors: () => errors,
        exitCode: () => child.exitCode,
        firstLine: eventually(`a line from ${file}`, () => closed || output.includes("\n")).pipe(
          Effect.andThen(Effect.suspend(() =>
            output.includes("\n")
              ? Effect.succeed(output.slice(0, output.indexOf("\n")))
              : Effect.die(new Error(`${file} ended without a line\n${errors}`))
          ))
        ),
        signal: (signal) => Effect.sync(() => void process.kill(pid, signal)),
        signalGroup: (signal) => Effect.sync(() => void process.kill(-pid, signal)),
        ended: eventually(() => `the end of ${file}, which has written\n${output}${errors}`, () => closed)
      }
    }),
    ({ ended, pid }) => Effect.sync(() => isAlive(pid) && process.kill(-pid, "SIGKILL")).pipe(Effect.andThen(ended))
  )

/**
 * Whether a process with this id runs. One that has ended and only waits for its parent to look does not: some systems
 * take seconds to bury an orphan.
 */
export const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return process.platform !== "linux" || !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))
  } catch {
    return false
  }
}
