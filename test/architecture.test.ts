/** The arrows between the parts of src hold because the linter refuses what breaks them: shown on sources that do. */
import { assert, describe, it } from "@effect/vitest"
import { execFileSync, spawnSync } from "node:child_process"
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join, resolve, sep } from "node:path"
import { arrows } from "../oxlint.config.ts"

const repository = resolve(import.meta.dirname, "..")

/** What the linter, with the rules of this repository, has against each of some sources. */
const lint = (sources: Readonly<Record<string, string>>): ReadonlyMap<string, ReadonlyArray<string>> => {
  const folder = mkdtempSync(join(tmpdir(), "effect-horsies-lint-"))
  try {
    copyFileSync(join(repository, "oxlint.config.ts"), join(folder, "oxlint.config.ts"))
    symlinkSync(join(repository, "node_modules"), join(folder, "node_modules"))
    for (const [file, source] of Object.entries(sources)) {
      mkdirSync(dirname(join(folder, file)), { recursive: true })
      writeFileSync(join(folder, file), source)
    }
    const oxlint = join(repository, "node_modules/oxlint/bin/oxlint")
    const { stderr, stdout } = spawnSync(process.execPath, [oxlint, "--format=json", "src"], {
      cwd: folder,
      encoding: "utf8"
    })
    assert.isTrue(stdout.startsWith("{"), stdout + stderr)
    const { diagnostics }: { diagnostics: ReadonlyArray<{ code: string; filename: string }> } = JSON.parse(stdout)
    return new Map(
      Object.keys(sources).map((file) => [
        file,
        diagnostics.filter(({ filename }) => filename === file).map(({ code }) => code)
      ])
    )
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const imports = (path: string) => `import * as Other from "${path}"\nexport const other = Other\n`
const importsType = (path: string) => `import type * as Other from "${path}"\nexport type Some = typeof Other\n`
const rule = "eslint(no-restricted-imports)"

describe("the linter refuses", () => {
  const refused: Record<string, readonly [code: string, source: string]> = {
    "src/Broker.ts": [rule, imports("./postgres/PostgresClaim.ts")],
    "src/Task.ts": [rule, importsType("./worker/Dispatcher.ts")],
    "src/PostgresConfig.ts": [rule, importsType("./Broker.ts")],
    "src/Worker.ts": [rule, imports("./connection/PooledSql.ts")],
    "src/Scheduler.ts": [rule, imports("./schema/SchemaInitializer.ts")],
    "src/Monitor.ts": [rule, imports("./memory/Queues.ts")],
    "src/MemoryBroker.ts": [rule, imports("./postgres/PostgresClaim.ts")],
    "src/PostgresBroker.ts": [rule, imports("./memory/Queues.ts")],
    "src/worker/one.ts": [rule, imports("../postgres/PostgresClaim.ts")],
    "src/worker/two.ts": [rule, importsType("../MemoryBroker.ts")],
    "src/worker/three.ts": [rule, "export * from \"../connection/PooledSql.ts\"\n"],
    "src/worker/four.ts": [rule, "export const other = () => import(\"../connection/PooledSql.ts\")\n"],
    "src/worker/sql.ts": [rule, importsType("effect/sql/SqlClient")],
    "src/memory/one.ts": [rule, imports("../connection/PooledSql.ts")],
    "src/memory/two.ts": [rule, importsType("../PostgresConfig.ts")],
    "src/memory/three.ts": [rule, imports("../NewlyInvented.ts")],
    "src/memory/sql.ts": [rule, imports("@effect/sql-pg/PgClient")],
    "src/connection/one.ts": [rule, imports("../schema/SchemaInitializer.ts")],
    "src/connection/two.ts": [rule, importsType("../postgres/PostgresClaim.ts")],
    "src/connection/deep/one.ts": [rule, imports("../../postgres/PostgresClaim.ts")],
    "src/worker/deep/one.ts": [rule, imports("../../postgres/PostgresClaim.ts")],
    "src/worker/deep/sql.ts": [rule, importsType("effect/sql/SqlClient")],
    "src/schema/one.ts": [rule, imports("../postgres/PostgresClaim.ts")],
    "src/postgres/one.ts": [rule, imports("../worker/Dispatcher.ts")],
    "src/postgres/socket.ts": [rule, imports("node:net")],
    "src/schema/socket.ts": [rule, imports("node:tls")],
    "src/monitor/one.ts": [rule, imports("../postgres/PostgresClaim.ts")],
    "src/embedded/one.ts": [rule, imports("../Broker.ts")],
    "src/testing/sql.ts": [rule, imports("effect/sql/SqlClient")],
    "src/testing/contract/sql.ts": [rule, imports("effect/sql/SqlClient")],
    "src/worker/runner.ts": [rule, imports("@effect/vitest")],
    "src/cli/runner.ts": [rule, imports("vitest")],
    "src/cli/barrel.ts": [rule, "import { Effect } from \"effect\"\nexport const other = Effect\n"],
    "src/cli/platform.ts": [rule, imports("@effect/platform-node")],
    "src/cli/self.ts": [rule, imports("effect-horsies/Task")],
    "src/cli/timers.ts": [rule, imports("node:timers/promises")],
    "src/cli/detour.ts": [rule, imports("../../src/Broker.ts")],
    "src/cli/loop.ts": [rule, imports("./../Broker.ts")],
    "src/cli/bend.ts": [rule, imports("../worker/../Broker.ts")],
    "src/cli/typeof.ts": [
      "typescript(consistent-type-imports)",
      "export type Some = import(\"../postgres/PostgresClaim.ts\").Some\n"
    ],
    "src/cli/timeout.ts": ["eslint(no-restricted-globals)", "setTimeout(() => undefined, 1)\n"],
    "src/cli/interval.ts": ["eslint(no-restricted-globals)", "setInterval(() => undefined, 1)\n"],
    "src/cli/console.ts": ["eslint(no-console)", "console.log(1)\n"],
    "src/cli/environment.ts": ["node(no-process-env)", "export const path = process.env[\"PATH\"]\n"],
    "src/cli/now.ts": ["eslint(no-restricted-properties)", "export const now = Date.now()\n"],
    "src/cli/random.ts": ["eslint(no-restricted-properties)", "export const random = Math.random()\n"],
    "src/cli/any.ts": ["typescript(no-explicit-any)", "export const any = (x: any) => x\n"],
    "src/health/a.ts": ["import(no-cycle)", imports("./b.ts")],
    "src/health/b.ts": ["import(no-cycle)", imports("./a.ts")]
  }
  const found = lint(Object.fromEntries(Object.entries(refused).map(([file, [, source]]) => [file, source])))

  it.each(Object.entries(refused))("%s", (file, [code]) => {
    assert.deepStrictEqual(found.get(file), [code])
  })
})

describe("the linter accepts", () => {
  const accepted: Record<string, string> = {
    "src/Task.ts": imports("./Broker.ts"),
    "src/Worker.ts": imports("./worker/Dispatcher.ts"),
    "src/worker/one.ts": imports("../Broker.ts"),
    "src/memory/one.ts": imports("../Task.ts"),
    "src/memory/two.ts": imports("./one.ts"),
    "src/connection/one.ts": imports("../PostgresConfig.ts"),
    "src/connection/sql.ts": imports("@effect/sql-pg/PgClient"),
    "src/connection/socket.ts": imports("node:net"),
    "src/schema/one.ts": imports("../connection/PooledSql.ts"),
    "src/schema/0001_tasks/one.ts": imports("effect/sql/SqlClient"),
    "src/schema/0001_tasks/two.ts": imports("../../connection/PooledSql.ts"),
    "src/schema/0001_tasks/three.ts": imports("../SchemaInitializer.ts"),
    "src/postgres/one.ts": imports("../schema/SchemaInitializer.ts"),
    "src/postgres/sql.ts": imports("effect/sql/SqlClient"),
    "src/PostgresBroker.ts": imports("./postgres/PostgresClaim.ts"),
    "src/MemoryBroker.ts": imports("./memory/Queues.ts"),
    "src/monitor/sql.ts": imports("effect/sql/SqlClient"),
    "src/EmbeddedPostgres.ts": imports("./embedded/server.ts"),
    "src/testing/one.ts": imports("effect/testing/TestClock"),
    "src/testing/contract/one.ts": imports("@effect/vitest")
  }
  const found = lint(accepted)

  it.each(Object.keys(accepted))("%s", (file) => {
    assert.deepStrictEqual(found.get(file), [])
  })
})

describe("the package", () => {
  const rooms = readdirSync(join(repository, "src"), { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name)

  it("has a place among the arrows for every room of src", () => {
    const known = new Set(arrows.flatMap((arrow) => arrow.of))
    assert.deepStrictEqual(rooms.filter((room) => !known.has(room)), [])
  })

  it("has no room deeper than the arrows reach", () => {
    const files = readdirSync(join(repository, "src"), { recursive: true, encoding: "utf8" })
    assert.deepStrictEqual(files.filter((file) => file.endsWith(".ts") && file.split(sep).length > 3), [])
  })

  it("lets nobody import from its rooms", () => {
    const { exports }: { exports: Record<string, unknown> } = JSON.parse(
      readFileSync(join(repository, "package.json"), "utf8")
    )
    assert.deepStrictEqual(rooms.filter((room) => room !== "testing" && exports[`./${room}/*`] !== null), [])
    assert.throws(
      () =>
        execFileSync(
          process.execPath,
          ["--input-type=module", "-e", "await import('effect-horsies/embedded/keeper')"],
          {
            cwd: repository,
            stdio: "pipe"
          }
        ),
      /ERR_PACKAGE_PATH_NOT_EXPORTED/
    )
  })
})
