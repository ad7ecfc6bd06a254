/** What the program says of files that it cannot read. */
import { assert, layer } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import { chmodSync, mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { TestDatabase } from "../../test/support/TestDatabase.ts"
import { complaintsOf, digestOf, refusal, reportOf, run, temporaryFolder } from "./testing.ts"

const options = Effect.map(TestDatabase, ({ url }) => ["--json", "--database-url", Redacted.value(url)])

/** A folder that nobody may enter, until the scope closes and it has to be removed. */
const closedFolder = (folder: string) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      mkdirSync(folder)
      writeFileSync(join(folder, "unknown"), "")
      chmodSync(folder, 0o000)
    }),
    () => Effect.sync(() => chmodSync(folder, 0o700))
  )

layer(TestDatabase.layer, { excludeTestServices: true })("files that cannot be read", (it) => {
  it.effect("fail one by one, by name and with the reason, while all others complete", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      for (let i = 0; i < 50; i++) writeFileSync(join(folder, `readable ${i}`), `${i}\n`)
      const digest = digestOf(folder)
      writeFileSync(join(folder, "secret\n"), "a secret", { mode: 0o000 })
      yield* closedFolder(join(folder, "closed"))

      const ended = yield* run({ args: [...yield* options, folder], preload: "asNobody.ts" })
      assert.strictEqual(ended.code, 1, ended.stderr)
      assert.deepStrictEqual([...complaintsOf(ended)].sort(), [
        "checksums: closed: permission denied (EACCES)",
        "checksums: secret\\u{a}: permission denied (EACCES)"
      ])
      assert.match(ended.stdout, /^completed +50\nfailed +1\nnot listed +1\nretried +0\n/m)
      const { completed, failed, files, retried, ...rest } = reportOf(ended)
      assert.deepStrictEqual({ completed, failed, files, retried }, { completed: 50, failed: 1, files: 51, retried: 0 })
      assert.strictEqual(rest.digest, digest)
    }))

  it.effect("are tried again when the reason passes by itself", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      for (let i = 0; i < 20; i++) writeFileSync(join(folder, i < 5 ? `busy ${i}` : `${i}`), `${i}\n`)
      const ended = yield* run({ args: [...yield* options, folder], preload: "busyFiles.ts" })
      assert.strictEqual(ended.code, 0, ended.stderr)
      const { completed, digest, failed, retried } = reportOf(ended)
      assert.deepStrictEqual({ completed, failed, retried }, { completed: 20, failed: 0, retried: 5 })
      assert.strictEqual(digest, digestOf(folder))
    }))

  it.effect("are no reason to begin when it is the folder itself", () =>
    Effect.gen(function*() {
      const folder = join(yield* temporaryFolder, "closed")
      yield* closedFolder(folder)
      const { line } = yield* refusal({ args: [...yield* options, folder], preload: "asNobody.ts" })
      assert.strictEqual(line, `checksums: ${folder}: permission denied (EACCES)`)
    }))
})
