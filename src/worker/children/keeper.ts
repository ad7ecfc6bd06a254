/**
 * The keeper of a worker's child processes. A child ends by itself when its worker is gone, unless its event loop is
 * blocked: then only somebody else can end it.
 */
import * as Effect from "effect/Effect"
import { spawn } from "node:child_process"

export interface Keeper {
  /** A process has been started. */
  readonly watch: (pid: number | undefined) => void
  /** It is gone. */
  readonly forget: (pid: number | undefined) => void
}

/**
 * A shell that reads a pipe from us: each line has all processes that are there. However we end, SIGKILL included, the
 * pipe then closes, and the shell ends those of the last line. It is told of a process in the same turn that starts it, and
 * of its end as soon as we know of it. What a terminal sends to all processes does not end it before us.
 */
const script = `
trap '' HUP INT TERM
pids=
while read -r line; do pids=$line; done
[ -z "$pids" ] || kill -s KILL $pids
`

/** The keeper as a scoped resource. Without it, a child that is blocked for ever outlives its worker. */
export const make = Effect.acquireRelease(
  Effect.map(Effect.context<never>(), (context) => {
    const fork = Effect.runForkWith(context)
    const shell = spawn("/bin/sh", ["-c", script, "worker-keeper"], { stdio: ["pipe", "ignore", "ignore"], cwd: "/" })
    let closed = false
    const gone = (how: string) => {
      if (closed) return
      closed = true
      fork(Effect.annotateLogs(
        Effect.logWarning("the keeper of child processes is gone: one that is blocked may outlive this worker"),
        { how }
      ))
    }
    shell.once("error", (error) => gone(error.message))
    shell.once("exit", (code, signal) => gone(signal ?? `exit code ${code}`))
    // Writing to one that somebody killed is no reason to bring the application down.
    shell.stdin.on("error", () => undefined)
    const pids = new Set<number>()
    const tell = () => shell.stdin.write(`${[...pids].join(" ")}\n`)
    const keeper: Keeper = {
      watch: (pid) => {
        if (pid === undefined) return
        pids.add(pid)
        tell()
      },
      forget: (pid) => {
        if (pid !== undefined && pids.delete(pid)) tell()
      }
    }
    const close = () => {
      closed = true
      shell.stdin.end()
    }
    return { keeper, close }
  }),
  ({ close }) => Effect.sync(close)
).pipe(Effect.map(({ keeper }) => keeper))
