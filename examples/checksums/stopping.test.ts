/** What the program leaves when it is stopped on the way. */
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it, layer } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import { SqlClient } from "effect/sql"
import { existsSync, readdirSync, truncateSync, writeFileSync } from "node:fs"
import { connect, createServer, type Socket } from "node:net"
import { join } from "node:path"
import { eventually } from "../../test/support/eventually.ts"
import { TestDatabase } from "../../test/support/TestDatabase.ts"
import { digestOf, leftOf, portOf, reportOf, run, start, temporaryFolder } from "./testing.ts"

/** Small files, and one that takes minutes to read and no room on the disk. */
const endlessFolder = Effect.map(temporaryFolder, (folder) => {
  for (let i = 0; i < 20; i++) writeFileSync(join(folder, `${i}`), `${i}\n`)
  writeFileSync(join(folder, "endless"), "")
  truncateSync(join(folder, "endless"), 2 ** 36)
  return folder
})

/** Starts the program on such a folder, and waits until only the one file is left to read. */
const startEndless = Effect.fnUntraced(function*(...args: ReadonlyArray<string>) {
  const program = yield* start({ args: [...args, yield* endlessFolder] })
  yield* eventually("everything but the endless file", () => program.stderr().includes("20 of 21 files"))
  return program
})

type Running = Effect.Success<ReturnType<typeof start>>

/** Stops the program, and has it gone within five seconds. */
const stop = Effect.fnUntraced(function*({ ended, signal }: Running, name: "SIGINT" | "SIGTERM") {
  yield* signal(name)
  const { code, seconds, stderr } = yield* ended
  assert.strictEqual(code, 130, stderr)
  assert.isAtMost(seconds, 5)
  return stderr
})

describe("stopped on the way, with its own server", () => {
  it.live.each(["SIGINT", "SIGTERM"] as const)(
    "it leaves neither process nor folder: %s",
    (name) =>
      Effect.gen(function*() {
        const program = yield* startEndless()
        assert.isAbove(leftOf(program.temporary).length, 1)
        const stderr = yield* stop(program, name)
        assert.include(stderr, "checksums: stopped after 20 of 21 files\n")
        assert.notInclude(stderr, "failed")
        assert.deepStrictEqual(leftOf(program.temporary), [])
      })
  )

  it.live("it leaves neither process nor folder: SIGINT while the server is being made", () =>
    Effect.gen(function*() {
      const program = yield* start({ args: [yield* endlessFolder] })
      const unfinished = (name: string) => existsSync(join(program.temporary, name, "data.unfinished", "base"))
      yield* eventually("initdb at work", () => readdirSync(program.temporary).some(unfinished))
      yield* stop(program, "SIGINT")
      assert.deepStrictEqual(leftOf(program.temporary), [])
    }))
})

const rows = Effect.fnUntraced(function*(statement: string) {
  const { url } = yield* TestDatabase
  const query = Effect.flatMap(SqlClient.SqlClient, (sql) => sql.unsafe(statement))
  return yield* Effect.provide(query, PgClient.layer({ url, maxConnections: 1 }), { local: true })
})

const waitingTasks = rows("select queue from horsies_tasks")

/** The way to a server, until it freezes: then nothing passes any more, and nobody is told. */
const freezingProxy = Effect.fnUntraced(function*(target: URL) {
  const sockets = new Set<Socket>()
  const server = createServer((client) => {
    const upstream = connect(Number(target.port), target.hostname)
    for (const [from, to] of [[client, upstream], [upstream, client]] as const) {
      sockets.add(from)
      from.on("error", () => to.destroy()).on("close", () => to.destroy()).pipe(to)
    }
  })
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => void server.listen(0, "127.0.0.1", () => resume(Effect.void))),
    () =>
      Effect.sync(() => {
        server.close()
        for (const socket of sockets) socket.destroy()
      })
  )
  const url = new URL(target)
  url.hostname = "127.0.0.1"
  url.port = String(portOf(server))
  return {
    url: url.href,
    freeze: Effect.sync(() => {
      for (const socket of sockets) socket.unpipe().pause()
    })
  }
})

layer(TestDatabase.layer, { excludeTestServices: true })("stopped on the way, in a database that stays", (it) => {
  it.effect("it leaves no task", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase
      const program = yield* startEndless("--database-url", Redacted.value(url))
      assert.lengthOf(yield* waitingTasks, 1)
      yield* stop(program, "SIGINT")
      assert.deepStrictEqual(yield* waitingTasks, [])
      assert.deepStrictEqual(yield* rows("select worker from horsies_heartbeats where died_at is null"), [])
    }))

  it.effect("it does not wait for a server that has stopped to answer", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase
      const proxy = yield* freezingProxy(new URL(Redacted.value(url)))
      const program = yield* startEndless("--database-url", proxy.url)
      yield* proxy.freeze
      yield* stop(program, "SIGINT")
    }))

  it.effect("even killed, what it leaves is none of the next run's business", () =>
    Effect.gen(function*() {
      const { url } = yield* TestDatabase
      const killed = yield* startEndless("--database-url", Redacted.value(url))
      yield* killed.signal("SIGKILL")
      yield* killed.ended
      const left = yield* waitingTasks
      assert.isAtLeast(left.length, 1)

      const folder = yield* temporaryFolder
      writeFileSync(join(folder, "one"), "1\n")
      const ended = yield* run({ args: ["--json", "--database-url", Redacted.value(url), folder] })
      assert.strictEqual(ended.code, 0, ended.stderr)
      const { completed, digest, files } = reportOf(ended)
      assert.deepStrictEqual({ completed, digest, files }, { completed: 1, digest: digestOf(folder), files: 1 })
      assert.deepStrictEqual(yield* waitingTasks, left)
    }))
})
