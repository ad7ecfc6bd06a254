/** Shows on stderr how far the job is. */
import { Effect, Schedule } from "effect"
import type { Tally } from "./Tally.ts"

const barWidth = 30
const count = new Intl.NumberFormat("en-US")

const bar = (tally: Tally) => {
  const filled = tally.files === 0 ? 0 : Math.floor(tally.ended / tally.files * barWidth)
  return `[${"#".repeat(filled)}${"-".repeat(barWidth - filled)}]`
}

const numbers = ({ ended, failed, files, seconds, walked }: Tally) =>
  `${count.format(ended)} of ${count.format(files)}${walked ? "" : "+"} files, ` +
  `${count.format(seconds === 0 ? 0 : Math.round(ended / seconds))}/s${failed === 0 ? "" : `, ${failed} failed`}`

const write = (text: string) => Effect.sync(() => void process.stderr.write(text))

/** Back to the first column, and away with what is behind the text. */
const line = (text: string) => `\r${text.slice(0, (process.stderr.columns || 80) - 1)}\u001b[K`

/** A bar where somebody watches, else a line now and then. It goes with the scope. */
export const show = (tally: Tally) =>
  process.stderr.isTTY
    ? Effect.suspend(() => write(line(`${bar(tally)} ${numbers(tally)}`))).pipe(
      Effect.repeat(Schedule.spaced("100 millis")),
      Effect.ensuring(write(line(""))),
      Effect.forkScoped
    )
    : Effect.suspend(() => write(`${numbers(tally)}\n`)).pipe(
      Effect.delay("2 seconds"),
      Effect.forever,
      Effect.forkScoped
    )
