import { assert, describe, it } from "@effect/vitest"
import { appendFileSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as Gathering from "../../src/verify/gathering.ts"
import * as Journal from "../../src/verify/journal.ts"

const inFolder = (use: (folder: string) => void) => {
  const folder = mkdtempSync(join(tmpdir(), "effect-horsies-journal-"))
  try {
    use(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

describe("a journal", () => {
  it("gives back what was written, without the line over which its process died", () =>
    inFolder((folder) => {
      const file = join(folder, "lines.jsonl")
      const journal = Journal.open<{ readonly n: number; readonly text: string }>(file)
      // More than is read at once, with characters that are cut in two at the borders.
      const lines = Array.from({ length: 40_000 }, (_, n) => ({ n, text: "ß€".repeat(10) }))
      lines.forEach(journal.write)
      appendFileSync(file, "{\"n\":")
      assert.deepStrictEqual([...Journal.linesOf(file)], lines)
    }))

  it("goes on where its process has died over a line", () =>
    inFolder((folder) => {
      const file = join(folder, "lines.jsonl")
      for (const n of [1, 2, 3]) {
        Journal.open<{ readonly n: number }>(file).write({ n })
        appendFileSync(file, "{\"n\":")
      }
      assert.deepStrictEqual([...Journal.linesOf(file)], [{ n: 1 }, { n: 2 }, { n: 3 }])
      const torn = join(folder, "torn.jsonl")
      appendFileSync(torn, "{")
      Journal.open<{ readonly n: number }>(torn).write({ n: 1 })
      assert.deepStrictEqual([...Journal.linesOf(torn)], [{ n: 1 }])
    }))

  it("of a producer says which sends were acknowledged, refused and cancelled", () =>
    inFolder((folder) => {
      const journal = Journal.open<Journal.SendsLine>(join(folder, "sends.jsonl"))
      const line = { what: "send", at: 1, n: 1, kind: "plain", millis: 0, failures: 0, key: "k", delay: 0 } as const
      for (const id of ["a", "b", "c"]) journal.write({ ...line, id })
      journal.write({ what: "sent", at: 2, id: "a", stored: "x" })
      journal.write({ what: "refused", at: 3, id: "b", error: "no" })
      journal.write({ what: "cancelled", at: 4, id: "a" })
      const { cancelled, sends } = Gathering.fromProducers([folder, join(folder, "never")])
      assert.deepStrictEqual(cancelled, ["a"])
      assert.deepStrictEqual(
        sends.map(({ acknowledgedAt, id, refused, stored }) => ({ id, acknowledgedAt, stored, refused })),
        [
          { id: "a", acknowledgedAt: 2, stored: "x", refused: undefined },
          { id: "b", acknowledgedAt: undefined, stored: undefined, refused: "no" },
          { id: "c", acknowledgedAt: undefined, stored: undefined, refused: undefined }
        ]
      )
    }))

  it("of a worker's process says which runs have ended, and how", () =>
    inFolder((folder) => {
      const journal = Journal.open<Journal.RunLine>(join(folder, "runs-1-2.jsonl"))
      journal.write({ what: "process", at: 1, pid: 2, parent: 1, worker: 3 })
      journal.write({ what: "begin", at: 2, task: "a", fence: 1 })
      journal.write({ what: "begin", at: 3, task: "b", fence: 4 })
      journal.write({ what: "end", at: 5, task: "a", fence: 1, how: "failed" })
      const of = { pid: 2, parent: 1, worker: 3 }
      assert.deepStrictEqual(Gathering.fromWorkers([folder]), [
        { task: "a", fence: 1, at: 2, ...of, end: { at: 5, how: "failed" } },
        { task: "b", fence: 4, at: 3, ...of, end: undefined }
      ])
    }))
})
