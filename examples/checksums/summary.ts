/** Sums up. */
import { Schema } from "effect"
import * as FileName from "./FileName.ts"
import type { Tally } from "./Tally.ts"

/** The last line with `--json`. */
export const Report = Schema.Struct({
  files: Schema.Int,
  bytes: Schema.Int,
  lines: Schema.Int,
  completed: Schema.Int,
  failed: Schema.Int,
  retried: Schema.Int,
  seconds: Schema.Finite,
  tasksPerSecond: Schema.Finite,
  digest: Schema.String
})

const round = (value: number, digits: number) => Number(value.toFixed(digits))

const encodeReport = Schema.encodeSync(Schema.fromJsonString(Report))

export const json = (tally: Tally): string =>
  encodeReport({
    files: tally.files,
    bytes: tally.bytes,
    lines: tally.lines,
    completed: tally.completed,
    failed: tally.failed,
    retried: tally.retried,
    seconds: round(tally.seconds, 3),
    tasksPerSecond: round(tally.tasksPerSecond, 1),
    digest: tally.digest()
  })

const count = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 })
const millis = (value: number) => `${value.toFixed(1)} ms`
const row = (first: string, second: string) => first.padEnd(14) + second.padStart(14)

/** What people see at the end. */
export const table = (tally: Tally): string =>
  [
    row("completed", count.format(tally.completed)),
    row("failed", count.format(tally.failed)),
    ...(tally.skipped === 0 ? [] : [row("not listed", count.format(tally.skipped))]),
    row("retried", count.format(tally.retried)),
    row("tasks/s", count.format(tally.tasksPerSecond)),
    row("wait p50", millis(tally.wait(0.5))),
    row("wait p99", millis(tally.wait(0.99))),
    "",
    `${row("slowest", "bytes")}  file`,
    ...tally.slowest.map(({ bytes, path, took }) =>
      `${row(millis(took), count.format(bytes))}  ${FileName.display(path)}`
    ),
    "",
    `digest  ${tally.digest()}`
  ].join("\n")
