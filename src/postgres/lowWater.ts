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
  /** '' for tasks without one; of other keys only those that give many tasks have ranges. */
  readonly key: string
  readonly fromPriority: number
  /** Milliseconds since the epoch; `null` is the beginning. */
  readonly fromDueAt: number | null
  readonly toPriority: number
}

/** A task with an earlier due time may become visible later than one with a later; this much later at most, or it waits for the next look without marks. */
const slack = 1000

/** Marks are thrown away after this time, in milliseconds: the poll floor. */
const age = 5000

/** A key has marks once it has given so many tasks within that time: what others leave behind is soon read. */
const many = 32

/** In one queue at most so many have marks: each gives at least one in so many of its tasks. */
const mostKeys = 20

/** Where the tasks of one name, version and key begin. */
interface Beginning {
  readonly name: string
  readonly version: number
  readonly key: string
  /** By priority, the due time of the last task claimed there. */
  readonly marks: Map<number, number>
}

/** What is known of one queue. */
interface Marked {
  since: number
  readonly withoutKey: Map<string, Beginning>
  readonly withKey: Map<string, Beginning>
  /** How many tasks each key has given since then, and how many all have. */
  readonly given: Map<string, number>
  total: number
}

const place = (name: string, version: number, key: string) =>
  version === 1 && key === "" ? name : `${name}\u0000${version}\u0000${key}`

const givesMany = ({ given, total }: Marked, at: string) => {
  const count = given.get(at) ?? 0
  return count >= many && count * mostKeys >= total
}

export class LowWater {
  private readonly queues = new Map<string, Marked>()
  /** How often somebody had marks forgotten. */
  private forgotten = 0

  /** Forgets the marks of a queue, or all; what claims that are under way have to teach is not learned any more. */
  forget(queue?: string) {
    this.forgotten += 1
    if (queue !== undefined) return this.drop(queue)
    for (const each of this.queues.keys()) this.drop(each)
  }

  /** A claim has seen the end of this queue, or of one of its keys, which needs no marks then. */
  drop(queue: string, key?: string) {
    const marked = this.queues.get(queue)
    if (marked === undefined) return
    if (key === undefined || key === "") marked.withoutKey.clear()
    for (const beginning of marked.withKey.values()) {
      if (key === undefined || beginning.key === key) beginning.marks.clear()
    }
  }

  /** Something of this queue has become ready that was due so long ago. */
  arrived(queue: string, dueIn: number) {
    if (dueIn < -slack / 2) this.forget(queue)
  }

  /** The lanes to claim from, in order, the queues of which any starts at a mark, and what `learn` wants to know. */
  lanes(wants: ReadonlyArray<Want>, now: number): {
    readonly lanes: ReadonlyArray<Lane>
    readonly marked: ReadonlySet<string>
    readonly forgotten: number
  } {
    const lanes: Array<Lane> = []
    const marked = new Set<string>()
    for (const [want, { handles, queue }] of wants.entries()) {
      const { withKey, withoutKey } = this.renewed(queue, now)
      const push = (name: string, version: number, key: string, marks: ReadonlyMap<number, number> | undefined) => {
        let fromPriority = 0
        let fromDueAt: number | null = null
        for (const [priority, dueAt] of [...marks ?? []].sort((a, b) => a[0] - b[0])) {
          marked.add(queue)
          lanes.push({ want, name, version, key, fromPriority, fromDueAt, toPriority: priority - 1 })
          fromPriority = priority
          fromDueAt = dueAt - slack
        }
        lanes.push({ want, name, version, key, fromPriority, fromDueAt, toPriority: lowestPriority })
      }
      for (const { name, version: known } of handles) {
        for (let version = 1; version <= known; version++) {
          push(name, version, "", withoutKey.get(place(name, version, ""))?.marks)
        }
      }
      for (const { key, marks, name, version } of withKey.values()) {
        if (marks.size === 0) continue
        if (handles.some((known) => known.name === name && version <= known.version)) push(name, version, key, marks)
      }
    }
    return { lanes, marked, forgotten: this.forgotten }
  }

  /** Learns from tasks in the order in which they were claimed. */
  learn(claimed: ReadonlyArray<ClaimedTask & { readonly dueAt: number }>, forgotten: number) {
    // Something earlier may have come while the claim was under way: its marks would hide that.
    if (forgotten !== this.forgotten) return
    for (const { concurrencyKey: key = "", dueAt, losses, name, priority, queue, version } of claimed) {
      const marked = this.queues.get(queue)
      if (losses > 0 || marked === undefined) continue
      const beginnings = key === "" ? marked.withoutKey : marked.withKey
      const at = place(name, version, key)
      let beginning = beginnings.get(at)
      marked.total += 1
      if (key !== "") {
        marked.given.set(at, (marked.given.get(at) ?? 0) + 1)
        if (beginning === undefined && (beginnings.size >= mostKeys || !givesMany(marked, at))) continue
      }
      if (beginning === undefined) beginnings.set(at, beginning = { name, version, key, marks: new Map() })
      beginning.marks.set(priority, Math.max(dueAt, beginning.marks.get(priority) ?? 0))
    }
  }

  /** Every so often without any marks; keys that went on giving many have theirs again with the next task. */
  private renewed(queue: string, now: number): Marked {
    let marked = this.queues.get(queue)
    if (marked === undefined) {
      this.queues.set(
        queue,
        marked = { since: now, withoutKey: new Map(), withKey: new Map(), given: new Map(), total: 0 }
      )
    } else if (now - marked.since >= age) {
      marked.since = now
      marked.withoutKey.clear()
      for (const [at, beginning] of marked.withKey) {
        if (givesMany(marked, at)) beginning.marks.clear()
        else marked.withKey.delete(at)
      }
      marked.given.clear()
      marked.total = 0
    }
    return marked
  }
}
