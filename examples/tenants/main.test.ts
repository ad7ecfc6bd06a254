import { assert, it } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import { fileURLToPath } from "node:url"
import { start } from "../../test/support/program.ts"
import { TestDatabase } from "../../test/support/TestDatabase.ts"

it.live("lets tenants take turns, within their limits, while the queue is not paused", () =>
  Effect.gen(function*() {
    const EXAMPLE_DATABASE_URL = Redacted.value((yield* TestDatabase).url)
    const program = yield* start(fileURLToPath(new URL("main.ts", import.meta.url)), { env: { EXAMPLE_DATABASE_URL } })
    yield* program.firstLine // it has started by then
    yield* program.ended
    assert.deepStrictEqual(program.output().split("\n"), [
      "why does the first not run? Paused",
      "exporting part 1 for acme",
      "exporting part 1 for globex",
      "exporting part 2 for acme",
      "why does the third not run? Rate",
      "exporting part 3 for acme",
      ""
    ])
  }).pipe(Effect.provide(TestDatabase.layer)))
