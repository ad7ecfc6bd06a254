/** A database of its own for a test file, on the server of the run. */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { randomBytes } from "node:crypto"
import { inject } from "vitest"

/** Runs one statement as the server's superuser, outside any test's database. */
const onServer = (statement: string) =>
  Effect.gen(function*() {
    const sql = yield* PgClient.PgClient
    yield* sql.unsafe(statement)
  }).pipe(
    Effect.provide(PgClient.layer({ url: Redacted.make(inject("serverUrl")), maxConnections: 1 }), { local: true }),
    // A test's clock stands still; the driver's deadlines are for the server, which does not.
    Effect.provideService(Clock.Clock, Clock.Clock.defaultValue()),
    Effect.orDie
  )

/** A new, empty database, dropped with its scope whoever is still connected to it. */
export const make = Effect.gen(function*() {
  const name = `test_${randomBytes(8).toString("hex")}`
  yield* Effect.acquireRelease(
    onServer(`create database ${name}`),
    () => onServer(`drop database if exists ${name} with (force)`)
  )
  const url = new URL(inject("serverUrl"))
  url.pathname = `/${name}`
  return { name, url: Redacted.make(url.href) }
})

/** The test file's own database: `layer(TestDatabase.layer)("…", (it) => …)`. */
export class TestDatabase extends Context.Service<TestDatabase, {
  readonly name: string
  /** The superuser's URL of the database. */
  readonly url: Redacted.Redacted
}>()("effect-horsies/test/support/TestDatabase") {
  static readonly layer: Layer.Layer<TestDatabase> = Layer.effect(TestDatabase, make)
}
