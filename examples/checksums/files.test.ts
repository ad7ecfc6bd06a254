/** What the program finds, and what it makes of it. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { spawnSync } from "node:child_process"
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { complaintsOf, digestOf, reportOf, run, shell, temporaryFolder } from "./testing.ts"

const oddNames = [
  "plain.txt",
  "two  spaces ",
  "-n",
  "-",
  "--help",
  "back\\slash\\n",
  "new\nline",
  "carriage\rreturn",
  "quote\"'$(id)`",
  "\u001b[2Jescape",
  "日本語",
  "cafe\u0301",
  "caf\u00e9",
  "💾",
  ".hidden",
  "deep/er/and deeper/file",
  "deep/er.txt"
]

/** Names in every way that they can be odd, and everything else that a folder can hold. */
const oddFolder = Effect.map(temporaryFolder, (folder) => {
  for (const [i, name] of oddNames.entries()) {
    mkdirSync(join(folder, name, ".."), { recursive: true })
    writeFileSync(join(folder, name), `line ${i}\n`.repeat(i))
  }
  writeFileSync(Buffer.concat([Buffer.from(`${folder}/`), Buffer.of(0xff, 0xfe, 0x80, 0x0a)]), "no UTF-8")
  writeFileSync(join(folder, "empty"), "")
  writeFileSync(join(folder, "no newline at the end"), "one\ntwo")
  writeFileSync(join(folder, "one chunk"), Buffer.alloc(65_536, "\n"))
  writeFileSync(join(folder, "large"), Buffer.alloc(3_000_001, "no line is as long as this one"))
  mkdirSync(join(folder, "empty folder"))
  symlinkSync("plain.txt", join(folder, "link to a file"))
  symlinkSync("/etc", join(folder, "link to a folder"))
  symlinkSync("nowhere", join(folder, "link to nothing"))
  assert.strictEqual(spawnSync("mkfifo", [join(folder, "pipe")]).status, 0)
  return folder
})

describe("the files of a folder", () => {
  it.live("are the ones that find finds, with the checksums of sha256sum, whatever their names", () =>
    Effect.gen(function*() {
      const folder = yield* oddFolder
      const ended = yield* run({ args: ["--json", folder] })
      assert.strictEqual(ended.code, 0, ended.stderr)
      assert.deepStrictEqual(complaintsOf(ended), [])
      const { digest, seconds, tasksPerSecond, ...counts } = reportOf(ended)
      assert.strictEqual(digest, digestOf(folder))
      const files = oddNames.length + 5
      assert.deepStrictEqual(counts, {
        files,
        bytes: Number(shell(folder, "find . -type f -exec cat {} + | wc -c")),
        lines: Number(shell(folder, "find . -type f -exec cat {} + | wc -l")),
        completed: files,
        failed: 0,
        retried: 0
      })
      assert.isAbove(seconds, 0)
      // Both are rounded: the seconds to milliseconds, the rate to tenths.
      assert.isAtLeast(tasksPerSecond, files / (seconds + 0.0005) - 0.05)
      assert.isAtMost(tasksPerSecond, files / (seconds - 0.0005) + 0.05)
    }))

  it.live("can be none", () =>
    Effect.gen(function*() {
      const folder = yield* temporaryFolder
      const ended = yield* run({ args: ["--json", folder] })
      assert.strictEqual(ended.code, 0, ended.stderr)
      assert.deepStrictEqual(reportOf(ended), {
        files: 0,
        bytes: 0,
        lines: 0,
        completed: 0,
        failed: 0,
        retried: 0,
        seconds: 0,
        tasksPerSecond: 0,
        digest: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
      })
    }))

  it.live("are counted before the eyes of who watches at a terminal", () =>
    Effect.gen(function*() {
      const folder = yield* oddFolder
      const { code, stderr } = yield* run({ args: [folder], preload: "terminal.ts" })
      assert.strictEqual(code, 0, stderr)
      // Each is drawn over the one before, and the last is gone in the end.
      const [first, ...drawn] = stderr.split("\r")
      assert.strictEqual(first, "")
      assert.strictEqual(drawn.pop(), "\u001b[K")
      assert.isAtLeast(drawn.length, 1)
      for (const bar of drawn) {
        assert.match(bar.replace("\u001b[K", ""), /^\[[#-]{30}\] [\d,]+ of [\d,]+\+? files, [\d,]+\/s$/)
      }
    }))

  it.live("are summed up in a table with the five slowest", () =>
    Effect.gen(function*() {
      const folder = yield* oddFolder
      const { code, stderr, stdout } = yield* run({ args: ["--concurrency", "1", folder] })
      assert.strictEqual(code, 0, stderr)
      const time = "\\d+\\.\\d ms"
      assert.match(
        stdout,
        new RegExp(
          `^completed +${
            oddNames.length + 5
          }\nfailed +0\nretried +0\ntasks/s +[\\d,]+\nwait p50 +${time}\nwait p99 +${time}\n\n` +
            `slowest +bytes  file\n(${time} +[\\d,]+  .+\n){5}\ndigest  ${digestOf(folder)}\n$`
        )
      )
      assert.include(stdout, "3,000,001  large\n")
    }))
})
