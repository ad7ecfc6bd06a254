/**
 * All tasks and the steps of their lives. Every method is one step: nothing else happens in between, and whoever calls it
 * says what time it is. What others are to hear of it gathers in `news`.
 */
import type {
  Cancelled,
  Claims,
  EndedAttempt,
  Filter,
  Hold,
  NewTask,
  Outcome,
  QueueSettings,
  Recovered,
  Sent,
  Want
} from "../Broker.ts"
import * as Entry from "./Entry.ts"
import { fits } from "./filtering.ts"
import { Heap } from "./Heap.ts"
import { IdempotencyKeys } from "./IdempotencyKeys.ts"
import { News } from "./News.ts"
import { QueueTasks } from "./QueueTasks.ts"
import { Workers } from "./Workers.ts"

/** An ended task, and until when it is kept. */
interface Kept {
  readonly entry: Entry.Entry
  readonly until: number
}

const cancelled: Outcome = { _tag: "Cancelled" }

export class Store {
  readonly workers = new Workers()
  readonly keys = new IdempotencyKeys()
  readonly queues = new Map<string, QueueTasks>()
  news = new News()
  private readonly tasks = new Map<string, Entry.Entry>()
  /** The claimed tasks of each worker. */
  private readonly held = new Map<string, Set<Entry.Entry>>()
  private readonly kept = new Heap<Kept>((a, b) => a.until < b.until)
  private readonly retention: number

  constructor(retention: number) {
    this.retention = retention
  }

  /** Ids are the same in capitals. */
  get(id: string): Entry.Entry | undefined {
    return this.tasks.get(id.toLowerCase())
  }

  matching(filter: Filter, now: number): ReadonlyArray<Entry.Entry> {
    const { idempotencyKey, ids, name } = filter
    let among = ids
    if (idempotencyKey !== undefined && name !== undefined) {
      const id = this.keys.get(name, idempotencyKey, now)
      among = id === undefined || ids?.includes(id) === false ? [] : [id]
    }
    const entries = among === undefined ? this.tasks.values() : new Set(among.map((id) => this.get(id)))
    return Array.from(entries).filter((entry) => entry !== undefined).filter(fits(filter))
  }

  /** Stores those tasks of a send that are none of its duplicates. */
  send(tasks: ReadonlyArray<NewTask>, sent: ReadonlyArray<Sent>, now: number) {
    for (const [i, task] of tasks.entries()) {
      if (sent[i]!.duplicate) continue
      this.store(Entry.make(task, now), now)
      const { idempotency } = task
      if (idempotency !== undefined) this.keys.keep(task.name, idempotency.key, task.id, now + idempotency.window)
    }
  }

  resend(filter: Filter, makeId: () => string, now: number) {
    const failed = this.matching(filter, now).filter((entry) =>
      entry.ended?.outcome._tag === "Failed" && entry.successor === undefined
    )
    return failed.map((entry) => {
      const id = makeId()
      entry.successor = id
      this.store(Entry.again(entry, id, now), now)
      return { origin: entry.id, id }
    })
  }

  cancel(filter: Filter, now: number): Cancelled {
    const ended: Array<string> = []
    const requested: Array<string> = []
    for (const entry of this.matching(filter, now)) {
      if (entry.ended !== undefined) continue
      if (entry.worker === undefined) {
        this.end(entry, cancelled, now)
        ended.push(entry.id)
      } else {
        entry.cancelling = true
        requested.push(entry.id)
      }
    }
    if (requested.length > 0) this.news.wakeUps.push({ _tag: "Cancel", ids: requested })
    return { cancelled: ended, requested }
  }

  configure(queue: string, settings: Partial<QueueSettings>, now: number) {
    this.queue(queue).configure(settings, now)
    if (settings.paused === true) this.news.wakeUps.push({ _tag: "Paused", queue })
    if (settings.paused === false || settings.limits !== undefined) this.news.wakeUps.push({ _tag: "LookAgain" })
  }

  claim(worker: string, wants: ReadonlyArray<Want>, now: number): Claims {
    const again = new Map<string, number>()
    const full = new Set<string>()
    if (!this.workers.isAlive(worker)) return { tasks: [], again, full }
    let held = this.held.get(worker)
    if (held === undefined) this.held.set(worker, held = new Set())
    const tasks = []
    for (const want of wants) {
      const queue = this.queues.get(want.queue)
      if (queue === undefined) continue
      this.expire(queue, now)
      const { again: after, full: isFull, taken } = queue.take(want, now)
      if (after !== undefined) again.set(want.queue, after)
      if (isFull) full.add(want.queue)
      for (const entry of taken) {
        entry.fence += 1
        entry.worker = worker
        held.add(entry)
        tasks.push(Entry.claimed(entry, now))
      }
    }
    return { tasks, again, full }
  }

  /** Records ended attempts and gives the tasks whose hold stood. */
  finish(worker: string, attempts: ReadonlyArray<EndedAttempt>, now: number): ReadonlySet<string> {
    const accepted = new Set<string>()
    for (const attempt of attempts) {
      const entry = this.standing(worker, attempt)
      if (entry === undefined) continue
      accepted.add(entry.id)
      this.recordAttempt(entry, attempt, now)
      const { end } = attempt
      switch (end._tag) {
        case "Retry":
        case "Snoozed":
          entry.dueAt = now + end.delay
          this.putBack(entry, now)
          break
        case "Interrupted":
          this.putBack(entry, now)
          break
        case "Lost":
          this.lose(entry, worker, now)
          break
        default:
          this.end(entry, end, now)
      }
    }
    return accepted
  }

  holds(worker: string): ReadonlyArray<Hold> {
    return Array.from(this.held.get(worker) ?? [], ({ fence, id }) => ({ id, fence }))
  }

  cancelling(worker: string): ReadonlyArray<string> {
    return Array.from(this.held.get(worker) ?? []).filter(({ cancelling }) => cancelling).map(({ id }) => id)
  }

  release(worker: string, holds: ReadonlyArray<Hold>, now: number) {
    for (const hold of holds) {
      const entry = this.standing(worker, hold)
      if (entry !== undefined) this.putBack(entry, now)
    }
  }

  /** Milliseconds until the next task of these queues is due, or its time over. */
  promote(queues: ReadonlyArray<string>, now: number): number | undefined {
    let next: number | undefined
    for (const name of queues) {
      const queue = this.queues.get(name)
      if (queue === undefined) continue
      this.expire(queue, now)
      next = Math.min(next ?? Number.POSITIVE_INFINITY, queue.next() ?? Number.POSITIVE_INFINITY)
    }
    return next === undefined || next === Number.POSITIVE_INFINITY ? undefined : next - now
  }

  recover(now: number): Recovered {
    const workers = this.workers.bury(now)
    let released = 0
    let failed = 0
    // Not only of those that have just died: a worker may have deregistered although it still held something.
    for (const [worker, entries] of this.held) {
      if (this.workers.isAlive(worker)) continue
      for (const entry of entries) {
        this.lose(entry, worker, now)
        if (Entry.isWaiting(entry)) released += 1
        else if (Entry.stateOf(entry) === "FAILED") failed += 1
      }
      this.held.delete(worker)
    }
    return { workers, released, failed, nextIn: this.workers.nextLapse(now) }
  }

  private queue(name: string): QueueTasks {
    let queue = this.queues.get(name)
    if (queue === undefined) this.queues.set(name, queue = new QueueTasks())
    return queue
  }

  private store(entry: Entry.Entry, now: number) {
    this.tasks.set(entry.id, entry)
    this.queue(entry.queue).add(entry, now)
    this.news.waiting.push(entry)
  }

  /** The task, if the whole hold stands. */
  private standing(worker: string, { fence, id }: Hold): Entry.Entry | undefined {
    const entry = this.tasks.get(id)
    return entry?.ended === undefined && entry?.worker === worker && entry.fence === fence ? entry : undefined
  }

  /** An attempt that has not started leaves nothing behind, nor does one that its handler has postponed. Not so a loss. */
  private recordAttempt(entry: Entry.Entry, { elapsed, end }: EndedAttempt, now: number) {
    if (elapsed === undefined || end._tag === "Snoozed" || end._tag === "Expired" || end._tag === "Lost") return
    entry.history.push({
      attempt: entry.attempts + 1,
      outcome: "failure" in end ? end.failure.kind : end._tag === "Interrupted" ? end.why : end._tag,
      worker: entry.worker!,
      startedAt: now - elapsed,
      endedAt: now,
      ...("failure" in end ? Entry.errorOf(end.failure) : {})
    })
    if (end._tag !== "Interrupted") entry.attempts += 1
  }

  /** Takes the task from its worker. It waits again, unless somebody wants it cancelled. */
  private putBack(entry: Entry.Entry, now: number) {
    if (entry.cancelling) {
      this.end(entry, cancelled, now)
      return
    }
    this.free(entry)
    entry.worker = undefined
    this.queue(entry.queue).add(entry, now)
    this.news.waiting.push(entry)
  }

  private end(entry: Entry.Entry, outcome: Outcome, now: number) {
    if (entry.worker !== undefined) this.free(entry)
    entry.cancelling = false
    entry.ended = { at: now, outcome }
    this.kept.push({ entry, until: now + (entry.retention ?? this.retention) })
    this.news.ended.push([entry.id, outcome])
  }

  private free(entry: Entry.Entry) {
    this.held.get(entry.worker!)?.delete(entry)
    const queue = this.queue(entry.queue)
    queue.free(entry)
    if (queue.isCapped) this.news.freed.add(entry.queue)
  }

  private expire(queue: QueueTasks, now: number) {
    for (const entry of queue.promote(now)) this.end(entry, { _tag: "Expired" }, now)
  }

  private lose(entry: Entry.Entry, worker: string, now: number) {
    entry.losses += 1
    // A loss is not counted as an attempt.
    const lost = { attempt: entry.attempts + 1, outcome: "Lost", worker, startedAt: null, endedAt: now } as const
    if (entry.losses < entry.maxLosses || entry.cancelling) {
      entry.history.push(lost)
      this.putBack(entry, now)
      return
    }
    const value = JSON.stringify(`lost ${entry.losses} workers while they held the task`)
    const failure = { kind: "Lost", value } as const
    entry.history.push({ ...lost, ...Entry.errorOf(failure) })
    this.end(entry, { _tag: "Failed", failure }, now)
  }

  /** Removes what need not be kept any longer. */
  sweep(now: number) {
    for (let next = this.kept.peek(); next !== undefined && next.until <= now; next = this.kept.peek()) {
      this.kept.pop()
      this.tasks.delete(next.entry.id)
    }
    this.keys.sweep(now)
    for (const queue of this.queues.values()) queue.sweep(now)
  }
}
