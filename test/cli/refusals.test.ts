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

const workerAt = (url: string) =>
  program.start(main, {
    args: ["worker", "--module", horsies.path("tasks.ts")],
    env: { HORSIES_DATABASE_URL: url, DATABASE_URL: "" }
  })

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

  it.effect("a database that is not said", () =>
    Effect.gen(function*() {
      yield* assertEnds(yield* workerAt(""), 2, "databaseUrl")
    }), slow)

  it.effect("to torture a server that is not there, or with options that mean nothing", () =>
    Effect.gen(function*() {
      const verify = (...args: ReadonlyArray<string>) => horsies.start("verify", ...args)
      yield* assertEnds(yield* verify("--seconds", "0"), 2, "at least 1")
      yield* assertEnds(yield* verify("--workers", "1"), 2, "from 2 to 64")
      yield* assertEnds(yield* verify("--database-url", "nowhere"), 2, "it is not a URL")
      const secret = yield* verify("--database-url", "postgresql://nobody:hidden@127.0.0.1:1/nothing")
      const { code, lines } = yield* horsies.end(secret)
      assert.strictEqual(code, 2)
      assert.match(lines.join("\n"), /^horsies: the database: [^\n]*ECONNREFUSED[^\n]*$/)
      assert.notInclude(lines.join("\n"), "hidden")
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

    it.effect("when the database is not there now", () =>
      Effect.gen(function*() {
        yield* assertEnds(yield* workerAt("postgresql://nobody@127.0.0.1:1/nothing"), 1, "the database: ")
      }), slow)
  }
)
