import { assert, it } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import { fileURLToPath } from "node:url"
import { start } from "../../test/support/program.ts"
import { TestDatabase } from "../../test/support/TestDatabase.ts"

it.live("pays once, with one receipt, although it was sent twice and failed half-way", () =>
  Effect.gen(function*() {
    const EXAMPLE_DATABASE_URL = Redacted.value((yield* TestDatabase).url)
    const program = yield* start(fileURLToPath(new URL("main.ts", import.meta.url)), { env: { EXAMPLE_DATABASE_URL } })
    yield* program.firstLine // it has started by then
    yield* program.ended
    assert.deepStrictEqual(program.output().split("\n"), [
      "attempt 1",
      "attempt 2",
      "invoice 7 is paid",
      "sending it again stored nothing: true",
      "accounts: [ { owner: 'customer', balance: 60 }, { owner: 'shop', balance: 40 } ]",
      "receipts: 1",
      ""
    ])
  }).pipe(Effect.provide(TestDatabase.layer)))
