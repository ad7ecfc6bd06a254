import { assert, it } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import { fileURLToPath } from "node:url"
import { start } from "../../test/support/program.ts"
import { TestDatabase } from "../../test/support/TestDatabase.ts"

it.live("sends dead letters again, says why others wait, and cancels them", () =>
  Effect.gen(function*() {
    const EXAMPLE_DATABASE_URL = Redacted.value((yield* TestDatabase).url)
    const program = yield* start(fileURLToPath(new URL("main.ts", import.meta.url)), { env: { EXAMPLE_DATABASE_URL } })
    yield* program.firstLine // it has started by then
    yield* program.ended
    assert.deepStrictEqual(program.output().split("\n"), [
      "failed: Import {\"customer\":\"acme\",\"file\":\"orders.csv\"} \"orders.csv is not UTF-8\"",
      "sent again, and done",
      "waiting: Invite {\"customer\":\"acme\"} NoWorker",
      "waiting: Import {\"customer\":\"acme\",\"file\":\"prices.csv\"} NotDue",
      "cancelled: 2",
      ""
    ])
  }).pipe(Effect.provide(TestDatabase.layer)))
