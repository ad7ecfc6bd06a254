/** Counts how often each task ran. */
import * as Latch from "effect/Latch"
import { now } from "./clock.ts"

export class Tally {
  readonly all = Latch.makeUnsafe()
  private readonly runs: Uint8Array
  private count = 0
  firstAt = 0
  lastAt = 0

  constructor(tasks: number) {
    this.runs = new Uint8Array(tasks)
  }

  readonly ran = (n: number): void => {
    if (this.count === 0) this.firstAt = now()
    this.runs[n]!++
    if (++this.count !== this.runs.length) return
    this.lastAt = now()
    this.all.openUnsafe()
  }

  /** What is wrong, if anything is. */
  problem(): string | undefined {
    const once = this.runs.filter((runs) => runs === 1).length
    return once === this.runs.length && this.count === this.runs.length
      ? undefined
      : `${this.count} runs of ${this.runs.length} tasks, ${once} of them exactly once`
  }
}
