/** What the command does not do: it says why in one line, and ends with a code of its own. */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { SqlClient } from "effect/sql/SqlClient"
import { fileURLToPath } from "node:url"
import * as program from "../support/program.ts"
import * as TestBroker from "../support/TestBroker.ts"
import * as horsies from "./horsies.ts"

const main = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url))

/** A busy machine takes its time to start programs. */
const slow = 90_000

const assertEnds = Effect.fnUntraced(function*(started: program.Program, code: number, says: string) {
  const { code: found, lines } = yield* horsies.end(started)
  assert.lengthOf(lines, 1, lines.join("\n"))
  assert.match(lines[0]!, /^horsies: /)
  assert.include(lines[0]!, says)
  assert.strictEqual(found, code)
})

const worker = (...args: ReadonlyArray<string>) => horsies.start("worker", ...args)

layer(TestBroker.layer, { excludeTestServices: true, timeout: "30 seconds" })("horsies refuses with 2", (it) => {
  it.effect("a module that is not there, or has no handlers", () =>
    Effect.gen(function*() {
      yield* assertEnds(yield* worker("--module", "nowhere.ts"), 2, "there is no module")
      yield* assertEnds(yield* worker("--module", horsies.path("noLayers.ts")), 2, "none of the exports")
      yield* assertEnds(yield* worker("--module", horsies.path("noLayers.ts"), "--processes", "1"), 2, "noLayers.ts")
    }), slow)

  it.effect("options that mean nothing", () =>
    Effect.gen(function*() {
      yield* assertEnds(yield* worker(), 2, "module")
      yield* assertEnds(yield* worker("--module", horsies.path("tasks.ts"), "--concurrency", "0"), 2, "at least 1")
      yield* assertEnds(yield* worker("--module", horsies.path("tasks.ts"), "--queues", ","), 2, "names of queues")
    }), slow)

  it.effect("a database that is not there, or is not said", () =>
    Effect.gen(function*() {
      const args = ["worker", "--module", horsies.path("tasks.ts")]
      const without = yield* program.start(main, { args, env: { HORSIES_DATABASE_URL: "", DATABASE_URL: "" } })
      yield* assertEnds(without, 2, "databaseUrl")
      const nowhere = yield* program.start(main, {
        args,
        env: { HORSIES_DATABASE_URL: "postgresql://nobody@127.0.0.1:1/nothing" }
      })
      yield* assertEnds(nowhere, 2, "the database: ")
    }), slow)

  it.effect("a database whose tables are of a newer version than its code", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      yield* sql`insert into horsies_migrations (migration_id, name) values (9999, 'from the future')`
      yield* assertEnds(yield* worker("--module", horsies.path("tasks.ts")), 2, "deploy newer code")
      yield* sql`delete from horsies_migrations where migration_id = 9999`
    }), slow)
})

layer(Layer.fresh(TestBroker.layer), { excludeTestServices: true, timeout: "30 seconds" })(
  "horsies ends with 1",
  (it) => {
    it.effect("when the layers of the module cannot be built", () =>
      Effect.gen(function*() {
        yield* assertEnds(yield* worker("--module", horsies.path("brokenLayer.ts")), 1, "there is no such thing")
      }))
  }
)
