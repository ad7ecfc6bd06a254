/**
 * The tasks of one queue that wait or are claimed, and what is set for it. Ready tasks lie under their concurrency keys,
 * which take turns; delayed ones in the order of their due times.
 */
import type { Limits, QueueSettings, Want, WhyNotRunning } from "../Broker.ts"
import { Bucket } from "./Bucket.ts"
import { type Entry, isWaiting } from "./Entry.ts"
import { Heap } from "./Heap.ts"
import { KeyTasks } from "./KeyTasks.ts"

const isDueEarlier = (a: Entry, b: Entry) => a.dueAt < b.dueAt
const isOverEarlier = (a: Entry, b: Entry) => a.goodUntil! < b.goodUntil!

const isLimited = ({ concurrency, perKey, rate }: Limits) =>
  concurrency !== undefined || rate !== undefined || perKey?.concurrency !== undefined || perKey?.rate !== undefined

const least = (a: number | undefined, b: number | undefined) =>
  a === undefined ? b : b === undefined ? a : Math.min(a, b)

const asMap = (handles: Want["handles"]): ReadonlyMap<string, number> => {
  const known = new Map<string, number>()
  for (const { name, version } of handles) known.set(name, Math.max(version, known.get(name) ?? 0))
  return known
}

export class QueueTasks {
  settings: QueueSettings = { paused: false, limits: {} }
  private readonly delayed = new Heap<Entry>(isDueEarlier)
  /** Tasks with an end to their time. One that was claimed meanwhile, or has ended, may still be among them. */
  private readonly perishable = new Heap<Entry>(isOverEarlier)
  private readonly keys = new Map<string | undefined, KeyTasks>()
  /** The keys with ready tasks, the one whose turn it is first. */
  private readonly turns = new Map<string | undefined, KeyTasks>()
  private readonly claimed = new Set<Entry>()
  private readonly bucket = new Bucket()

  add(entry: Entry, now: number) {
    if (entry.goodUntil !== undefined) this.perishable.push(entry)
    if (entry.dueAt > now) this.delayed.push(entry)
    else this.makeReady(entry)
  }

  /** The task is no longer claimed. */
  free(entry: Entry) {
    this.claimed.delete(entry)
    this.keys.get(entry.concurrencyKey)?.claimed.delete(entry)
  }

  /** Makes the tasks ready whose time has come, and gives those whose time is over. */
  promote(now: number): ReadonlyArray<Entry> {
    for (let next = this.delayed.peek(); next !== undefined && next.dueAt <= now; next = this.delayed.peek()) {
      this.delayed.pop()
      if (isWaiting(next)) this.makeReady(next)
    }
    const over = new Set<Entry>()
    const { perishable } = this
    for (let next = perishable.peek(); next !== undefined && next.goodUntil! <= now; next = perishable.peek()) {
      perishable.pop()
      if (isWaiting(next)) over.add(next)
    }
    return [...over]
  }

  /** When the next delayed task is due, or the time of a task is over. */
  next(): number | undefined {
    return least(this.delayed.peekWhere(isWaiting)?.dueAt, this.perishable.peekWhere(isWaiting)?.goodUntil)
  }

  hasReady(now: number): boolean {
    for (const [key, tasks] of this.turns) {
      if (!tasks.isEmpty()) return true
      this.turns.delete(key)
    }
    return (this.delayed.peekWhere(isWaiting)?.dueAt ?? Number.POSITIVE_INFINITY) <= now
  }

  /**
   * Claims what a worker wants. Also tells after how many milliseconds to look again, if it may have more, and whether as
   * many run as may.
   */
  take({ ahead, handles, slots }: Want, now: number) {
    const taken: Array<Entry> = []
    let again: number | undefined
    let full = false
    const { limits, paused } = this.settings
    if (paused) return { taken, again, full }
    const known = asMap(handles)
    const cap = limits.concurrency ?? Number.POSITIVE_INFINITY
    const limited = isLimited(limits)
    const most = limited ? slots : slots + ahead
    // A key that had its turn goes to the end, where the loop meets it again.
    for (const [key, tasks] of this.turns) {
      if (taken.length >= most) break
      // One that was lost before goes into a slot, or is the first of what is held ready: it is to start before all others.
      const heap = tasks.mostUrgent(known, taken.length < Math.max(slots, 1))
      if (heap === undefined) {
        if (tasks.isEmpty()) this.turns.delete(key)
        continue
      }
      if (limited) {
        if (this.claimed.size >= cap) break
        const wait = limits.rate === undefined ? 0 : this.bucket.wait(limits.rate, now)
        if (wait > 0) {
          again = least(again, wait)
          break
        }
        if (key !== undefined) {
          if (tasks.claimed.size >= (limits.perKey?.concurrency ?? Number.POSITIVE_INFINITY)) {
            full = true
            continue
          }
          const wait = limits.perKey?.rate === undefined ? 0 : tasks.bucket.wait(limits.perKey.rate, now)
          if (wait > 0) {
            again = least(again, wait)
            continue
          }
          if (limits.perKey?.rate !== undefined) tasks.bucket.take()
        }
        if (limits.rate !== undefined) this.bucket.take()
      }
      const entry = heap.pop()!
      taken.push(entry)
      this.claimed.add(entry)
      tasks.claimed.add(entry)
      this.turns.delete(key)
      this.turns.set(key, tasks)
    }
    if (this.claimed.size >= cap) full = true
    // None was cut short by a limit alone: the next one may find more.
    if (limited && slots > 0 && taken.length === slots) again = 0
    return { taken, again, full }
  }

  configure(settings: Partial<QueueSettings>, now: number) {
    const { perKey, rate } = this.settings.limits
    if (rate !== undefined) this.bucket.fill(rate, now)
    if (perKey?.rate !== undefined) { for (const { bucket } of this.keys.values()) bucket.fill(perKey.rate, now) }
    this.settings = {
      paused: settings.paused ?? this.settings.paused,
      limits: settings.limits ?? this.settings.limits
    }
  }

  /** Whether the end of a claim makes room for others. */
  get isCapped(): boolean {
    const { concurrency, perKey } = this.settings.limits
    return concurrency !== undefined || perKey?.concurrency !== undefined
  }

  /** The limit that keeps a ready task from being claimed. */
  hindrance({ concurrencyKey }: Entry, now: number): WhyNotRunning | undefined {
    const { concurrency, perKey, rate } = this.settings.limits
    const key = concurrencyKey === undefined ? undefined : this.keys.get(concurrencyKey)
    if (concurrency !== undefined && this.claimed.size >= concurrency) {
      return { _tag: "Concurrency", limit: concurrency, concurrencyKey: undefined, holders: idsOf(this.claimed) }
    }
    if (key !== undefined && perKey?.concurrency !== undefined && key.claimed.size >= perKey.concurrency) {
      return { _tag: "Concurrency", limit: perKey.concurrency, concurrencyKey, holders: idsOf(key.claimed) }
    }
    const wait = rate === undefined ? 0 : this.bucket.wait(rate, now)
    if (wait > 0) return { _tag: "Rate", concurrencyKey: undefined, freeAt: now + wait }
    const keyWait = key === undefined || perKey?.rate === undefined ? 0 : key.bucket.wait(perKey.rate, now)
    return keyWait > 0 ? { _tag: "Rate", concurrencyKey, freeAt: now + keyWait } : undefined
  }

  /** How many ready tasks of the same name and key come before this one, counted up to a limit. */
  ahead(entry: Entry, limit: number): number {
    return this.keys.get(entry.concurrencyKey)?.ahead(entry, limit) ?? 0
  }

  /** Forgets keys that have no tasks, and nothing to remember for their rate. */
  sweep(now: number) {
    const rate = this.settings.limits.perKey?.rate
    for (const [key, { bucket, claimed }] of this.keys) {
      if (this.turns.has(key) || claimed.size > 0 || (rate !== undefined && !bucket.isFull(rate, now))) continue
      this.keys.delete(key)
    }
  }

  private makeReady(entry: Entry) {
    const key = entry.concurrencyKey
    let tasks = this.keys.get(key)
    if (tasks === undefined) this.keys.set(key, tasks = new KeyTasks())
    tasks.add(entry)
    // At the end, unless it waits for its turn already.
    this.turns.set(key, tasks)
  }
}

const idsOf = (entries: Iterable<Entry>) => Array.from(entries, ({ id }) => id)
