/** A suite: contestants in turn, round after round, so that what disturbs the machine disturbs all of them. */
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import type { Name } from "./contestant.ts"
import * as Processes from "./processes.ts"
import * as Round from "./round.ts"

export interface Suite {
  /** The key of its results. */
  readonly key: string
  readonly title: string
  /** What is measured from where to where. */
  readonly rule: string
  readonly contestants: readonly [Name, ...Array<Name>]
  readonly send: Round.Plan["send"]
}

const end = "to the commit of the last completion, as another connection sees it"

export const suites = {
  drain: {
    key: "drain",
    title: "tasks that wait, drained by one worker process",
    rule: `from the start of the worker (modules loaded, nothing connected) ${end}`,
    contestants: ["ours", "raw", "graphileTuned"],
    send: "before"
  },
  "drain-cold": {
    key: "drainCold",
    title: "tasks sent to one worker process that started on an empty, never analysed table",
    rule: `from the first send, a thousand tasks per statement from another process, ${end}`,
    contestants: ["ours", "graphileTuned"],
    send: "after"
  }
} satisfies Record<string, Suite>

export interface Results {
  /** The first round, with cold processes. It does not count. */
  readonly warmUp: ReadonlyArray<Round.Round>
  readonly rounds: ReadonlyArray<ReadonlyArray<Round.Round>>
}

export const run = Effect.fnUntraced(function*(suite: Suite, options: {
  readonly tasks: number
  readonly runs: number
  /** Called in the last round. */
  readonly inspect: Round.Inspect | undefined
}) {
  const processes = yield* Effect.forEach(suite.contestants, Processes.make)
  const plan: Round.Plan = { tasks: options.tasks, send: suite.send }

  const round = Effect.fnUntraced(function*(label: string, inspect: Round.Inspect | undefined) {
    const results: Array<Round.Round> = []
    for (const each of processes) {
      const result = yield* Round.run(each, plan, inspect)
      yield* Console.error(
        `${label}  ${each.name}: ${Math.round(result.tasksPerSecond)} tasks/s, others used ${
          result.others.toFixed(1)
        } CPUs`
      )
      results.push(result)
    }
    return results
  })

  const warmUp = yield* round("warm-up", undefined)
  const rounds: Array<ReadonlyArray<Round.Round>> = []
  for (let i = 1; i <= options.runs; i++) {
    rounds.push(yield* round(`round ${i}/${options.runs}`, i === options.runs ? options.inspect : undefined))
  }
  const results: Results = { warmUp, rounds }
  return results
}, Effect.scoped)
