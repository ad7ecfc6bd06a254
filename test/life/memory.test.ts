/** Sending in bounded memory. */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import { fileURLToPath } from "node:url"
import * as program from "../support/program.ts"
import * as TestBroker from "../support/TestBroker.ts"
import { TestDatabase } from "../support/TestDatabase.ts"
import { figures } from "./figures.ts"

const file = fileURLToPath(new URL("sendingProgram.ts", import.meta.url))
const megabyte = 1024 * 1024

const Report = Schema.fromJsonString(Schema.Struct({
  sent: Schema.Int,
  before: Schema.Number,
  most: Schema.Number,
  after: Schema.Number,
  millis: Schema.Number
}))

layer(TestBroker.layer, { excludeTestServices: true, timeout: "30 seconds" })("sendMany", (it) => {
  it.effect(
    "a stream of 1,000,000 tasks leaves less than 64 MB in the heap, also on the way",
    () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient
        const { url } = yield* TestDatabase
        const count = 1_000_000
        const sender = yield* program.start(file, { args: [Redacted.value(url), String(count)] })
        yield* Effect.repeat(Effect.sleep("100 millis"), { until: () => sender.output().includes("\n") }).pipe(
          Effect.timeout("150 seconds")
        )
        const { after, before, millis, most, sent } = yield* Schema.decodeUnknownEffect(Report)(yield* sender.firstLine)
        figures("sendMany of 1,000,000", {
          "heap before (MB)": before / megabyte,
          "growth on the way": (most - before) / megabyte,
          "growth at the end": (after - before) / megabyte,
          "took (s)": millis / 1000
        })
        assert.strictEqual(sent, count)
        assert.deepStrictEqual(yield* sql`select count(*)::int as count from horsies_tasks`, [{ count: count + 1 }])
        assert.isBelow(most - before, 64 * megabyte)
        assert.isBelow(after - before, 64 * megabyte)
      }),
    180_000
  )
})
