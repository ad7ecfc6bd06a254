/** One queue of a worker: how many tasks it may run, what it holds ready, and what it wants next. */
import type { ClaimedTask, Want } from "../Broker.ts"

/** Claimed ahead is what the slots are expected to run within this time, in milliseconds. */
const horizon = 20

/** And never more than this: one claim's worth to run while the next one is under way. */
const mostAhead = 1000

/** The most tasks of one claim. A larger one would keep the server busy while the worker has nothing to do. */
const mostClaimed = 500

/** A claimed task with the time of its claim, by the worker's monotonic clock. */
export interface ReadyTask {
  readonly task: ClaimedTask
  /** The identity of the worker under which it was claimed. */
  readonly worker: string
  readonly claimedAt: number
}

export class QueueSlots {
  readonly queue: string
  readonly concurrency: number
  /** Names with a handler. */
  readonly names = new Set<string>()
  running = 0
  private ready: Array<ReadyTask> = []
  private next = 0
  /** Whether there may be something to claim. */
  private hungry = true
  /** Whether there may be something to claim ahead. */
  private hungryAhead = true
  /** Raised whenever something may have come, so that a claim under way does not overlook it. */
  private calls = 0
  /** Tasks per millisecond while any is running; smoothed. */
  private rate = 0
  private ended = 0
  private busy = 0
  private busySince = 0

  constructor(queue: string, concurrency: number) {
    this.queue = queue
    this.concurrency = concurrency
  }

  /** There may be something to claim. */
  call() {
    this.hungry = true
    this.hungryAhead = true
    this.calls++
  }

  /**
   * What to claim now, if anything. A refill of what is held ready is only worth a claim when half of it is gone; an
   * idle slot always is.
   */
  want(now: number): { readonly want: Want; readonly calls: number } | undefined {
    if (!this.hungry || this.names.size === 0) return undefined
    const held = this.running + this.ready.length - this.next
    const slots = Math.min(mostClaimed, Math.max(0, this.concurrency - held))
    const target = this.target(now)
    const missing = Math.max(0, this.concurrency + target - held - slots)
    const ahead = Math.min(missing, mostClaimed - slots)
    if (slots === 0 && (!this.hungryAhead || missing * 2 < target)) return undefined
    return slots + ahead === 0
      ? undefined
      : { want: { queue: this.queue, names: [...this.names], slots, ahead }, calls: this.calls }
  }

  /**
   * Learns from a claim whether anything is left, unless something has called since. Tasks that were lost before go into
   * slots only: a claim whose slots they filled, or that had none, has not seen the end of them.
   */
  claimed(want: Want, calls: number, tasks: ReadonlyArray<ClaimedTask>) {
    if (calls !== this.calls || tasks.length >= want.slots + want.ahead) return
    this.hungryAhead = false
    if (tasks.filter((task) => task.losses > 0).length < want.slots) this.hungry = false
  }

  hold(task: ReadyTask) {
    this.ready.push(task)
  }

  /** The next task to start, if a slot is free. */
  take(now: number): ReadyTask | undefined {
    if (this.running >= this.concurrency || this.next === this.ready.length) return undefined
    const task = this.ready[this.next++]
    // Under steady load it is never empty: what has started must not be kept until it is.
    if (this.next === this.ready.length || this.next >= mostClaimed) {
      this.ready = this.ready.slice(this.next)
      this.next = 0
    }
    if (this.running++ === 0) this.busySince = now
    return task
  }

  /** A run has ended. */
  free(now: number) {
    this.ended++
    if (--this.running === 0) this.busy += now - this.busySince
  }

  /** What is held ready and has not started. */
  heldReady(): ReadonlyArray<ReadyTask> {
    return this.ready.slice(this.next)
  }

  /**
   * Takes back what was claimed ahead at a pace that the worker has lost: when the oldest has waited for ten times the
   * horizon, others would be sooner.
   */
  shed(now: number): ReadonlyArray<ReadyTask> {
    const oldest = this.ready[this.next]
    if (oldest === undefined || now - oldest.claimedAt < horizon * 10) return []
    const shed = this.ready.slice(this.next)
    this.ready = []
    this.next = 0
    this.rate = 0
    this.ended = 0
    this.busy = 0
    this.busySince = now
    return shed
  }

  /** Takes back what is held ready and has not started. */
  drop(which: (task: ClaimedTask) => boolean): ReadonlyArray<ClaimedTask> {
    const rest = this.ready.slice(this.next)
    const dropped = rest.filter(({ task }) => which(task))
    this.ready = rest.filter(({ task }) => !which(task))
    this.next = 0
    return dropped.map(({ task }) => task)
  }

  private target(now: number): number {
    const busy = this.busy + (this.running > 0 ? now - this.busySince : 0)
    if (this.ended > 0 && (busy >= 1 || this.ended >= this.concurrency)) {
      const rate = this.ended / Math.max(busy, 0.05)
      this.rate = this.rate === 0 ? rate : (this.rate + rate) / 2
      this.ended = 0
      this.busy = 0
      this.busySince = now
    }
    return Math.min(mostAhead, Math.floor(this.rate * horizon))
  }
}
