/** What the program says when it cannot begin, and how soon. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { createServer } from "node:net"
import { inject } from "vitest"
import { portOf, refusal, temporaryFolder } from "./testing.ts"

/** A server that accepts connections and never says a word. */
const muteServer = Effect.acquireRelease(
  Effect.callback<ReturnType<typeof createServer>>((resume) => {
    const server = createServer((socket) => socket.on("error", () => undefined))
    server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
  }),
  (server) => Effect.sync(() => server.close())
)

describe("a wrong option", () => {
  it.live.each<[string, ReadonlyArray<string>, string]>([
    ["that there is not", ["--jsno"], "Unrecognized flag: --jsno"],
    ["a value that is no number", ["--concurrency", "many"], "--concurrency: \"many\""],
    ["no concurrency at all", ["--concurrency", "0"], "--concurrency: \"0\". Expected a number from 1 to 1000"],
    ["one folder too many", [".", "test"], "Unexpected positional argument: \"test\""],
    ["a folder that does not exist", ["/does/not/exist"], "/does/not/exist: no such file or directory (ENOENT)"],
    ["a file for a folder", ["package.json"], "/package.json: not a directory (ENOTDIR)"]
  ])("%s", ([, args, message]) =>
    Effect.gen(function*() {
      const { line } = yield* refusal({ args })
      assert.include(line, message)
    }))
})

describe("a wrong database URL", () => {
  const refused = Effect.fnUntraced(function*(url: string, ...args: ReadonlyArray<string>) {
    const result = yield* refusal({ args: [...args, "--database-url", url, yield* temporaryFolder] })
    assert.notInclude(result.line, "s3cret")
    return result
  })

  it.live("of another kind", () =>
    Effect.gen(function*() {
      const { line } = yield* refused("mysql://user:s3cret@localhost/app")
      assert.include(line, "databaseUrl: ")
      assert.include(line, "scheme")
    }))

  it.live("that cannot be read", () =>
    Effect.gen(function*() {
      const { line } = yield* refused("postgres://user:s3cret%@localhost/app")
      assert.include(line, "databaseUrl: its percent-encoding is broken")
    }))

  it.live("in the environment", () =>
    Effect.gen(function*() {
      const { line } = yield* refusal({ args: [], env: { DATABASE_URL: "s3cret" } })
      assert.include(line, "databaseUrl: it is not a URL")
      assert.notInclude(line, "s3cret")
    }))

  it.live("where nobody listens", () =>
    Effect.gen(function*() {
      const port = yield* Effect.scoped(Effect.map(muteServer, portOf))
      const { line } = yield* refused(`postgres://user:s3cret@127.0.0.1:${port}/app`)
      assert.include(line, "ECONNREFUSED")
    }))

  it.live("with a wrong password", () =>
    Effect.gen(function*() {
      const url = new URL(inject("serverUrl"))
      url.password = "s3cret"
      const { line } = yield* refused(url.href)
      assert.include(line, "password authentication failed")
    }))

  it.live("where nobody answers", () =>
    Effect.gen(function*() {
      const port = portOf(yield* muteServer)
      const { line, seconds } = yield* refused(`postgres://user:s3cret@127.0.0.1:${port}/app`)
      assert.include(line, "timed out")
      // Four, and what the process takes to start on a machine that is busy with other tests.
      assert.isAtMost(seconds, 8)
    }))
})
