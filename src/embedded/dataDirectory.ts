/** The data directory of an embedded server and the password of its superuser. */
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { randomBytes } from "node:crypto"
import { chown, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises"
import { dirname, join } from "node:path"
import { fileStep } from "./failure.ts"
import type { Keeper } from "./keeper.ts"
import * as Programs from "./programs.ts"
import type { User } from "./user.ts"

/** Where a server's files are. */
export interface DataDirectory {
  /** PostgreSQL's own folder. */
  readonly path: string
  readonly password: Redacted.Redacted
}

/** How long `initdb` may take; it needs about 0.4 seconds. */
const initializationTime = 60_000

/** Makes a folder that the server's user owns and nobody else can enter. One that exists is left as it is. */
export const makeFolder = (folder: string, user: User | undefined) =>
  fileStep(`making ${folder}`, async () => {
    await mkdir(dirname(folder), { recursive: true })
    const made = await mkdir(folder, { recursive: true, mode: 0o700 })
    if (made !== undefined && user !== undefined) await chown(folder, user.uid, user.gid)
  })

/**
 * The data directory in a folder, made when it is not there yet. It appears under its name only when it is whole, so
 * one that was interrupted on the way is made again. The password stays beside it only if the folder is to be used
 * again.
 */
export const open = Effect.fnUntraced(function*(folder: string, bin: string, keeper: Keeper) {
  const path = join(folder, "data")
  const passwordFile = join(folder, "password")
  const known = yield* fileStep(`reading ${folder}`, async () => {
    const version = await readFile(join(path, "PG_VERSION"), "utf8").catch(absent)
    return version === undefined ? undefined : readFile(passwordFile, "utf8")
  })
  if (known !== undefined) return { path, password: Redacted.make(known) }

  const password = randomBytes(24).toString("hex")
  const unfinished = join(folder, "data.unfinished")
  yield* fileStep(`preparing ${folder}`, async () => {
    await rm(unfinished, { recursive: true, force: true })
    await rm(passwordFile, { force: true })
    await writeFile(passwordFile, password, { mode: 0o600, flag: "wx" })
    if (keeper.user !== undefined) await chown(passwordFile, keeper.user.uid, keeper.user.gid)
  })
  yield* Programs.run(keeper, join(bin, "initdb"), [
    `--pgdata=${unfinished}`,
    "--username=postgres",
    `--pwfile=${passwordFile}`,
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale=C",
    "--no-instructions",
    // Files of a directory that did not exist a moment ago need not survive a power cut.
    "--no-sync"
  ], initializationTime)
  yield* fileStep(`preparing ${folder}`, async () => {
    await rename(unfinished, path)
    if (folder === keeper.folder) await rm(passwordFile)
  })
  return { path, password: Redacted.make(password) }
})

const absent = (cause: NodeJS.ErrnoException): undefined => {
  if (cause.code !== "ENOENT") throw cause
}
