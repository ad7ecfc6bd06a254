/** Results as text for people and as one JSON object for programs. */
import type { Name } from "./contestant.ts"
import type { Round } from "./round.ts"
import { summarize, type Summary } from "./statistics.ts"
import type { Results, Suite } from "./suite.ts"

const whole = (value: number) => Math.round(value).toLocaleString("en")
/** Not every system tells whose processor time it was. */
const tenths = (value: number) => Number.isNaN(value) ? "–" : value.toFixed(1)
const range = ({ least, most }: Summary, format: (value: number) => string) => `${format(least)} … ${format(most)}`

/** The rounds of one contestant. */
const of = (results: Results, name: Name): ReadonlyArray<Round> =>
  results.rounds.flat().filter((round) => round.contestant === name)

const summaryOf = (results: Results, name: Name, value: (round: Round) => number) =>
  summarize(of(results, name).map(value))

const rate = (round: Round) => round.tasksPerSecond

/** One contestant's rate in terms of another's: per round, because a disturbance of the machine lasts longer than one. */
const ratio = (results: Results, name: Name, base: Name) =>
  summarize(of(results, name).map((round, i) => rate(round) / rate(of(results, base)[i]!)))

const align = (rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  return rows
    .map((row) =>
      row.map((cell, i) => i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)).join("   ").trimEnd()
    )
    .join("\n")
}

export const table = (suite: Suite, results: Results): string => {
  const header = [
    "",
    "tasks/s",
    "range",
    "warm-up",
    "sent/s",
    "first handler",
    "worker CPU",
    "server CPU",
    "WAL",
    "others"
  ]
  const rows = suite.contestants.map((name) => {
    const median = (value: (round: Round) => number) => summaryOf(results, name, value).median
    const tasks = summaryOf(results, name, rate)
    return [
      name,
      whole(tasks.median),
      range(tasks, whole),
      whole(rate(results.warmUp.find((round) => round.contestant === name)!)),
      whole(median((round) => round.sentPerSecond)),
      `${whole(median((round) => round.untilFirst))} ms`,
      `${tenths(median((round) => round.workerCpu))} µs/task`,
      `${tenths(median((round) => round.serverCpu))} µs/task`,
      `${whole(median((round) => round.wal))} B/task`,
      `${tenths(median((round) => round.others))} CPUs`
    ]
  })
  const ratios = suite.contestants.flatMap((name, i) =>
    suite.contestants.slice(i + 1).map((base) => {
      const summary = ratio(results, name, base)
      const digits = (value: number) => value.toFixed(2)
      return [`${name} / ${base}`, digits(summary.median), range(summary, digits)]
    })
  )
  return `${align([header, ...rows])}\n\n${align([["ratio, per round", "median", "range"], ...ratios])}`
}

/** The medians. */
export const json = (suite: Suite, results: Results): string =>
  JSON.stringify({
    [suite.key]: Object.fromEntries(
      suite.contestants.map((name) => [name, Math.round(summaryOf(results, name, rate).median)])
    )
  })
