/**
 * A program that uses an embedded server, for tests that kill, interrupt or run it as somebody else. It prints one line
 * of JSON when the server is up, or when there is none. Arguments: `once` ends it then, `nobody` makes it drop root.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { readFileSync, statSync } from "node:fs"
import { join } from "node:path"
import * as EmbeddedPostgres from "../../src/EmbeddedPostgres.ts"

/** What the program prints. */
export type Report =
  | { readonly directory: string; readonly pid: number; readonly owner: number; readonly one: number }
  | { readonly reason: string; readonly message: string }

if (process.argv.includes("nobody") && process.getuid?.() === 0) {
  process.setgroups?.([])
  process.setgid?.(65_534)
  process.setuid?.(65_534)
}

const Server = EmbeddedPostgres.layer()
const Sql = Layer.unwrap(Effect.gen(function*() {
  const { url } = yield* EmbeddedPostgres.EmbeddedPostgres
  return PgClient.layer({ url })
}))

const report = (value: Report) => Console.log(JSON.stringify(value))

const program = Effect.gen(function*() {
  const { directory } = yield* EmbeddedPostgres.EmbeddedPostgres
  const sql = yield* PgClient.PgClient
  yield* Effect.addFinalizer(() =>
    sql`select 1`.pipe(
      Effect.andThen(Console.log("the finalizer still had a database")),
      Effect.catch((error) => Console.log(`the finalizer had no database: ${error.message}`))
    )
  )
  const [row] = yield* sql<{ readonly one: number }>`select 1 as one`
  const data = join(directory, "data")
  yield* report({
    directory,
    pid: Number(readFileSync(join(data, "postmaster.pid"), "utf8").split("\n")[0]),
    owner: statSync(data).uid,
    one: row?.one ?? 0
  })
  return yield* process.argv.includes("once") ? Effect.void : Effect.never
})

NodeRuntime.runMain(program.pipe(
  Effect.scoped,
  Effect.provide(Layer.provideMerge(Sql, Server)),
  Effect.catchTag(
    "EmbeddedPostgresError",
    ({ message, reason }) => report({ reason: reason._tag, message })
  )
))
