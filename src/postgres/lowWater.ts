/**
 * Low-water marks: where in a lane the ready tasks begin. While an old snapshot keeps vacuum from removing them, the
 * entries of tasks that were claimed long ago lie at the head of the index; a claim that starts at the mark never reads
 * them. A mark is a guess, so it is thrown away whenever something earlier may have come, and every so often anyway.
 */
import type { ClaimedTask, Want } from "../Broker.ts"
import { lowestPriority } from "../Broker.ts"

/** A range of the ready index. */
export interface Lane {
  /** Which of the wants, from 0. */
  readonly want: number
  readonly name: string
  readonly version: number
  readonly fromPriority: number
  /** Milliseconds since the epoch; `null` is the beginning. */
  readonly fromDueAt: number | null
  readonly toPriority: number
}

/** A task with an earlier due time may become visible later than one with a later; this much later at most, or it waits for the next look without marks. */
const slack = 1000

/** Marks are thrown away after this time, in milliseconds: the poll floor. */
const age = 5000

const laneOf = (name: string, version: number) => version === 1 ? name : `${name}\u0000${version}`

export class LowWater {
  /** Queue, name and version, priority: the due time of the last task claimed there. */
  private readonly marks = new Map<string, Map<string, Map<number, number>>>()
  private readonly since = new Map<string, number>()
  /** How often somebody had marks forgotten. */
  private forgotten = 0

  /** Forgets the marks of a queue, or all; what claims that are under way have to teach is not learned any more. */
  forget(queue?: string) {
    this.forgotten += 1
    this.drop(queue)
  }

  private drop(queue?: string) {
    if (queue === undefined) this.marks.clear()
    else this.marks.delete(queue)
  }

  /** Something of this queue has become ready that was due so long ago. */
  arrived(queue: string, dueIn: number) {
    if (dueIn < -slack / 2) this.forget(queue)
  }

  /** The lanes to claim from, in order, whether any of them starts at a mark, and what `learn` wants to know. */
  lanes(wants: ReadonlyArray<Want>, now: number): {
    readonly lanes: ReadonlyArray<Lane>
    readonly marked: boolean
    readonly forgotten: number
  } {
    const lanes: Array<Lane> = []
    let marked = false
    for (const [want, { handles, queue }] of wants.entries()) {
      if (now - (this.since.get(queue) ?? 0) >= age) this.drop(queue)
      for (const handled of handles) {
        for (let version = 1; version <= handled.version; version++) {
          const { name } = handled
          const marks = [...this.marks.get(queue)?.get(laneOf(name, version)) ?? []].sort((a, b) => a[0] - b[0])
          let fromPriority = 0
          let fromDueAt: number | null = null
          for (const [priority, dueAt] of marks) {
            marked = true
            lanes.push({ want, name, version, fromPriority, fromDueAt, toPriority: priority - 1 })
            fromPriority = priority
            fromDueAt = dueAt - slack
          }
          lanes.push({ want, name, version, fromPriority, fromDueAt, toPriority: lowestPriority })
        }
      }
    }
    return { lanes, marked, forgotten: this.forgotten }
  }

  /** Learns from a claim. A claim that found less than it wanted has seen the end, and needs no marks. */
  learn(
    wants: ReadonlyArray<Want>,
    claimed: ReadonlyArray<ClaimedTask & { readonly dueAt: number }>,
    now: number,
    forgotten: number
  ) {
    const counts = new Map<string, number>()
    for (const task of claimed) counts.set(task.queue, (counts.get(task.queue) ?? 0) + 1)
    for (const { ahead, queue, slots } of wants) {
      if ((counts.get(queue) ?? 0) < slots + ahead) {
        this.drop(queue)
        counts.delete(queue)
      }
    }
    // Something earlier may have come while the claim was under way: its marks would hide that.
    if (forgotten !== this.forgotten) return
    for (const { concurrencyKey, dueAt, losses, name, priority, queue, version } of claimed) {
      // The lanes of keys are not walked from marks.
      if (losses > 0 || concurrencyKey !== undefined || !counts.has(queue)) continue
      let names = this.marks.get(queue)
      if (names === undefined) {
        this.marks.set(queue, names = new Map())
        this.since.set(queue, now)
      }
      const lane = laneOf(name, version)
      let priorities = names.get(lane)
      if (priorities === undefined) names.set(lane, priorities = new Map())
      priorities.set(priority, Math.max(dueAt, priorities.get(priority) ?? 0))
    }
  }
}
