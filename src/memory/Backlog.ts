/** The tasks that wait: ready ones in the order of their claims, delayed ones in the order of their due times. */
import type { Want } from "../Broker.ts"
import { type Entry, isMoreUrgent } from "./Entry.ts"
import { Heap } from "./Heap.ts"

/** The ready tasks of one name in one queue. */
interface Lane {
  readonly fresh: Heap<Entry>
  /** Tasks that have cost a worker before: only for slots, never claimed ahead. */
  readonly suspect: Heap<Entry>
}

interface Waiting {
  readonly delayed: Heap<Entry>
  readonly lanes: Map<string, Lane>
}

const isDueEarlier = (a: Entry, b: Entry) => a.dueAt < b.dueAt

export class Backlog {
  private readonly queues = new Map<string, Waiting>()

  add(entry: Entry, now: number) {
    let waiting = this.queues.get(entry.queue)
    if (waiting === undefined) {
      this.queues.set(entry.queue, waiting = { delayed: new Heap(isDueEarlier), lanes: new Map() })
    }
    if (entry.dueAt > now) {
      waiting.delayed.push(entry)
      return
    }
    let lane = waiting.lanes.get(entry.name)
    if (lane === undefined) {
      waiting.lanes.set(entry.name, lane = { fresh: new Heap(isMoreUrgent), suspect: new Heap(isMoreUrgent) })
    }
    ;(entry.losses > 0 ? lane.suspect : lane.fresh).push(entry)
  }

  /** Makes the delayed tasks of a queue ready whose time has come, and gives the due time of the next one. */
  promote(queue: string, now: number): number | undefined {
    const delayed = this.queues.get(queue)?.delayed
    if (delayed === undefined) return undefined
    for (let next = delayed.peek(); next !== undefined; next = delayed.peek()) {
      if (next.dueAt > now) return next.dueAt
      delayed.pop()
      this.add(next, now)
    }
    return undefined
  }

  /** Takes what a worker wants, the most urgent first. */
  take({ ahead, names, queue, slots }: Want, now: number): ReadonlyArray<Entry> {
    this.promote(queue, now)
    const waiting = this.queues.get(queue)
    const lanes: Array<Lane> = []
    for (const name of new Set(names)) {
      const lane = waiting?.lanes.get(name)
      if (lane !== undefined) lanes.push(lane)
    }
    const taken: Array<Entry> = []
    while (taken.length < slots + ahead) {
      const entry = mostUrgent(lanes, taken.length < slots)?.pop()
      if (entry === undefined) break
      taken.push(entry)
    }
    return taken
  }
}

const mostUrgent = (lanes: ReadonlyArray<Lane>, orSuspect: boolean): Heap<Entry> | undefined => {
  let first: Entry | undefined
  let heap: Heap<Entry> | undefined
  for (const { fresh, suspect } of lanes) {
    for (const candidate of orSuspect ? [fresh, suspect] : [fresh]) {
      const entry = candidate.peek()
      if (entry === undefined || (first !== undefined && !isMoreUrgent(entry, first))) continue
      first = entry
      heap = candidate
    }
  }
  return heap
}
