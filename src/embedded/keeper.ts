/**
 * The keeper of the server's temporary folder: what makes sure that nothing is left of an embedded server, however the
 * process that uses it ends.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import { type ChildProcess, spawn } from "node:child_process"
import { randomBytes } from "node:crypto"
import { rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Writable } from "node:stream"
import { type EmbeddedPostgresError, fileStep, setupFailed } from "./failure.ts"
import { runAs, type User } from "./user.ts"

/** The keeper of the server's temporary folder. */
export interface Keeper {
  /** The folder. It does not exist yet when the keeper starts. */
  readonly folder: string
  readonly user: User | undefined
  /** The process to end when we are gone. */
  readonly watch: (pid: number) => void
  readonly forget: (pid: number | undefined) => void
}

/**
 * A shell that reads a pipe from us. However we end, SIGKILL included, the pipe then closes, and the keeper ends the
 * process it was told of last and removes the folder. It is told of a process in the same turn that starts it, and told
 * to forget it when it is gone, so it never signals a number that the system gave to someone else.
 */
const keeperScript = `
pid=
while read -r line; do pid=$line; done
[ -z "$pid" ] || kill -s QUIT -- "-$pid"
tries=0
while
  rm -rf -- "$1"
  [ -e "$1" ] || { [ -n "$pid" ] && kill -s 0 -- "-$pid"; }
do
  tries=$((tries + 1))
  [ $tries -ne 15 ] || [ -z "$pid" ] || kill -s KILL -- "-$pid"
  [ $tries -lt 30 ] || exit 1
  sleep 0.1
done
`

/** The keeper as a scoped resource: releasing it removes the folder by the same path as our sudden death does. */
export const make = (user: User | undefined) =>
  Effect.acquireRelease(
    Effect.callback<KeeperProcess, EmbeddedPostgresError>((resume) => {
      const folder = join(tmpdir(), `effect-horsies-postgres-${randomBytes(8).toString("hex")}`)
      const child = spawn("/bin/sh", ["-c", keeperScript, "postgres-keeper", folder], {
        ...runAs(user, "/"),
        stdio: ["pipe", "ignore", "ignore"]
      })
      child.once("error", (cause) => resume(Effect.fail(setupFailed(`cannot run /bin/sh: ${cause.message}`, cause))))
      child.once("spawn", () => resume(Effect.succeed(keeperProcess(child, child.stdin, folder, user))))
    }),
    ({ ended, folder, input }) =>
      Effect.sync(() => input.end()).pipe(
        Effect.andThen(Effect.timeoutOption(ended, "5 seconds")),
        // A keeper that somebody killed leaves the folder to us.
        Effect.andThen(fileStep(`removing ${folder}`, () => rm(folder, { recursive: true, force: true }))),
        Effect.catch((error) => Effect.logWarning(error.message))
      )
  )

interface KeeperProcess extends Keeper {
  readonly input: Writable
  readonly ended: Effect.Effect<void>
}

const keeperProcess = (child: ChildProcess, input: Writable, folder: string, user: User | undefined): KeeperProcess => {
  const ended = Deferred.makeUnsafe<void>()
  child.once("exit", () => Deferred.doneUnsafe(ended, Effect.void))
  // Writing to a keeper that somebody killed is no reason to bring the application down.
  input.on("error", () => undefined)
  let watched: number | undefined
  return {
    folder,
    user,
    input,
    ended: Deferred.await(ended),
    watch: (pid) => {
      watched = pid
      input.write(`${pid}\n`)
    },
    forget: (pid) => {
      if (pid === undefined || pid !== watched) return
      watched = undefined
      input.write("\n")
    }
  }
}
