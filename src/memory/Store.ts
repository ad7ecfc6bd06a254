/**
 * All tasks and the steps of their lives. Every method is one step: nothing else happens in between, and whoever calls it
 * says what time it is.
 */
import type { AttemptEnd, ClaimedTask, EndedAttempt, Hold, NewTask, Outcome, Recovered, Want } from "../Broker.ts"
import { Backlog } from "./Backlog.ts"
import * as Entry from "./Entry.ts"
import { Workers } from "./Workers.ts"

type Ended = readonly [id: string, outcome: Outcome]

export class Store {
  readonly workers = new Workers()
  private readonly tasks = new Map<string, Entry.Entry>()
  private readonly backlog = new Backlog()
  /** The claimed tasks of each worker. */
  private readonly held = new Map<string, Set<Entry.Entry>>()

  get(id: string): Entry.Entry | undefined {
    return this.tasks.get(id)
  }

  send(tasks: ReadonlyArray<NewTask>, now: number): ReadonlyArray<Entry.Entry> {
    return tasks.map((task) => {
      const entry = Entry.make(task, now)
      this.tasks.set(entry.id, entry)
      this.backlog.add(entry, now)
      return entry
    })
  }

  claim(worker: string, wants: ReadonlyArray<Want>, now: number): ReadonlyArray<ClaimedTask> {
    if (!this.workers.isAlive(worker)) return []
    const taken = wants.flatMap((want) => this.backlog.take(want, now))
    let held = this.held.get(worker)
    if (held === undefined) this.held.set(worker, held = new Set())
    for (const entry of taken) {
      entry.fence += 1
      entry.worker = worker
      held.add(entry)
    }
    return taken
      .toSorted((a, b) => Entry.isMoreUrgent(a, b) ? -1 : 1)
      .map((entry) => Entry.claimed(entry, now))
  }

  finish(worker: string, attempts: ReadonlyArray<EndedAttempt>, now: number) {
    const ended: Array<Ended> = []
    const retried: Array<Entry.Entry> = []
    for (const attempt of attempts) {
      const entry = this.standing(worker, attempt)
      if (entry === undefined) continue
      const { elapsed, end } = attempt
      entry.attempts += 1
      entry.history.push({
        attempt: entry.attempts,
        outcome: end._tag === "Completed" ? "Completed" : end.failure.kind,
        worker,
        startedAt: now - elapsed,
        endedAt: now,
        ...(end._tag === "Completed" ? {} : Entry.errorOf(end.failure))
      })
      if (end._tag === "Retry") {
        entry.dueAt = now + end.delay
        this.putBack(entry, now)
        retried.push(entry)
      } else {
        ended.push([entry.id, this.end(entry, end, now)])
      }
    }
    return { ended, retried }
  }

  holds(worker: string): ReadonlyArray<Hold> {
    return Array.from(this.held.get(worker) ?? [], ({ fence, id }) => ({ id, fence }))
  }

  release(worker: string, holds: ReadonlyArray<Hold>, now: number) {
    for (const hold of holds) {
      const entry = this.standing(worker, hold)
      if (entry !== undefined) this.putBack(entry, now)
    }
  }

  /** Milliseconds until the next delayed task of these queues is due. */
  promote(queues: ReadonlyArray<string>, now: number): number | undefined {
    const next = queues.map((queue) => this.backlog.promote(queue, now)).filter((dueAt) => dueAt !== undefined)
    return next.length === 0 ? undefined : next.reduce((a, b) => Math.min(a, b)) - now
  }

  recover(now: number): { readonly recovered: Recovered; readonly ended: ReadonlyArray<Ended> } {
    const workers = this.workers.bury(now)
    const ended: Array<Ended> = []
    let released = 0
    // Not only of those that have just died: a worker may have deregistered although it still held something.
    for (const [worker, entries] of this.held) {
      if (this.workers.isAlive(worker)) continue
      for (const entry of entries) {
        const outcome = this.lose(entry, worker, now)
        if (outcome === undefined) released += 1
        else ended.push([entry.id, outcome])
      }
      this.held.delete(worker)
    }
    return { recovered: { workers, released, failed: ended.length }, ended }
  }

  /** The task, if the whole hold stands. */
  private standing(worker: string, { fence, id }: Hold): Entry.Entry | undefined {
    const entry = this.tasks.get(id)
    return entry?.ended === undefined && entry?.worker === worker && entry.fence === fence ? entry : undefined
  }

  private putBack(entry: Entry.Entry, now: number) {
    this.held.get(entry.worker!)?.delete(entry)
    entry.worker = undefined
    this.backlog.add(entry, now)
  }

  private end(entry: Entry.Entry, end: Exclude<AttemptEnd, { readonly _tag: "Retry" }>, now: number): Outcome {
    this.held.get(entry.worker!)?.delete(entry)
    entry.ended = { at: now, outcome: end }
    return end
  }

  private lose(entry: Entry.Entry, worker: string, now: number): Outcome | undefined {
    entry.losses += 1
    // A loss is not counted as an attempt.
    const lost = { attempt: entry.attempts + 1, outcome: "Lost", worker, startedAt: null, endedAt: now } as const
    if (entry.losses < entry.maxLosses) {
      entry.history.push(lost)
      this.putBack(entry, now)
      return undefined
    }
    const value = JSON.stringify(`lost ${entry.losses} workers while they held the task`)
    const failure = { kind: "Lost", value } as const
    entry.history.push({ ...lost, ...Entry.errorOf(failure) })
    return this.end(entry, { _tag: "Failed", failure }, now)
  }
}
