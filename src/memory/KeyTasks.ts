/** The ready tasks of one concurrency key in one queue, and what counts against the limits of that key. */
import { Bucket } from "./Bucket.ts"
import { type Entry, isMoreUrgent, isWaiting } from "./Entry.ts"
import { Heap } from "./Heap.ts"

/** The ready tasks of one name and version. */
interface Lane {
  readonly name: string
  readonly version: number
  readonly fresh: Heap<Entry>
  /** Tasks that have cost a worker before: only for slots, never claimed ahead. */
  readonly suspect: Heap<Entry>
}

export class KeyTasks {
  readonly claimed = new Set<Entry>()
  readonly bucket = new Bucket()
  private readonly lanes: Array<Lane> = []

  add(entry: Entry) {
    let lane = this.lanes.find(({ name, version }) => name === entry.name && version === entry.version)
    if (lane === undefined) {
      const { name, version } = entry
      this.lanes.push(lane = { name, version, fresh: new Heap(isMoreUrgent), suspect: new Heap(isMoreUrgent) })
    }
    ;(entry.losses > 0 ? lane.suspect : lane.fresh).push(entry)
  }

  /** Whether nothing is ready. Tasks that were cancelled or have expired still lie in the heaps. */
  isEmpty(): boolean {
    return this.lanes.every(({ fresh, suspect }) =>
      fresh.peekWhere(isWaiting) === undefined && suspect.peekWhere(isWaiting) === undefined
    )
  }

  /** Where the most urgent task lies of those names, up to a version each. */
  mostUrgent(known: ReadonlyMap<string, number>, orSuspect: boolean): Heap<Entry> | undefined {
    let first: Entry | undefined
    let heap: Heap<Entry> | undefined
    const consider = (candidate: Heap<Entry>) => {
      const entry = candidate.peekWhere(isWaiting)
      if (entry === undefined || (first !== undefined && !isMoreUrgent(entry, first))) return
      first = entry
      heap = candidate
    }
    for (const { fresh, name, suspect, version } of this.lanes) {
      if ((known.get(name) ?? 0) < version) continue
      consider(fresh)
      if (orSuspect) consider(suspect)
    }
    return heap
  }

  /** How many ready tasks of the same name come before this one, counted up to a limit. */
  ahead(entry: Entry, limit: number): number {
    let count = 0
    for (const { fresh, name, suspect } of this.lanes) {
      if (name !== entry.name) continue
      for (const heap of [fresh, suspect]) {
        for (const other of heap.all()) {
          if (!isWaiting(other) || !isMoreUrgent(other, entry)) continue
          count += 1
          if (count === limit) return count
        }
      }
    }
    return count
  }
}
