/** The operating-system user that the server runs as, and how its processes are started. */
import * as Effect from "effect/Effect"
import { readFile } from "node:fs/promises"
import { fileStep, platformUnsupported } from "./failure.ts"

/** A user to switch to. */
export interface User {
  readonly name: string
  readonly uid: number
  readonly gid: number
}

/**
 * PostgreSQL refuses to run as root, so root's server runs as `postgres`, or as `nobody` where there is no such user.
 * Everyone else's server runs as themselves: `undefined`.
 */
export const serverUser = Effect.gen(function*() {
  if (process.geteuid?.() !== 0) return undefined
  const users = (yield* fileStep("reading the system's users", () => readFile("/etc/passwd", "utf8")))
    .split("\n")
    .map((line) => line.split(":"))
  const find = (wanted: string): User | undefined => {
    const [name, , uid, gid] = users.find(([each]) => each === wanted) ?? []
    // macOS writes nobody's ids as -2.
    return name === undefined ? undefined : { name, uid: Number(uid) >>> 0, gid: Number(gid) >>> 0 }
  }
  const user = find("postgres") ?? find("nobody")
  if (user === undefined || user.uid === 0) {
    return yield* platformUnsupported("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")
  }
  return user
})

/**
 * What a child gets to see of the environment: nothing of ours. Our secrets are no business of the server's user, and
 * `PG…` or locale variables must not change how it behaves.
 */
const environment = { PATH: "/usr/local/bin:/usr/bin:/bin", LC_ALL: "C", TZ: "UTC" }

/** Detached: a Ctrl-C in the terminal must reach the application only, whose finalizers still need the server. */
export const runAs = (user: User | undefined, cwd: string) => ({
  cwd,
  env: environment,
  detached: true,
  ...(user === undefined ? {} : { uid: user.uid, gid: user.gid })
})
