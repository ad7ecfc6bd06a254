import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { fileURLToPath } from "node:url"
import { start } from "../../test/support/program.ts"

it.live("greets, and ends by itself", () =>
  Effect.gen(function*() {
    const program = yield* start(fileURLToPath(new URL("main.ts", import.meta.url)))
    yield* program.ended
    assert.strictEqual(program.output(), "Hello, Ada!\n")
  }))
