/** One queue of a worker: how many tasks it may run, what it holds ready, and what it wants next. */
import { type ClaimedTask, type Handled, lowestPriority, type Want } from "../Broker.ts"

/** Claimed ahead is what the slots are expected to run within this time, in milliseconds. */
const horizon = 20

/** And never more than this: one claim's worth to run while the next one is under way. */
const mostAhead = 1000

/** The most tasks of one claim. A larger one would keep the server busy while the worker has nothing to do. */
const mostClaimed = 500

/**
 * Who takes the places of a full queue again whenever one of its tasks ends would keep them for ever, from workers with other
 * handlers, too. So every so often it takes none for a moment: not all workers at the same one. In milliseconds.
 */
const restInterval = 1000
const restTime = 25

/** A claimed task with the time of its claim, by the worker's monotonic clock. */
export interface ReadyTask {
  readonly task: ClaimedTask
  /** The identity of the worker under which it was claimed. */
  readonly worker: string
  readonly claimedAt: number
}

/** What may be held ready of payloads together, in characters. */
const mostCharacters = 16_000_000

/** A task that was lost before goes first: it was claimed for the next free slot. Then the order inside a queue. */
const isMoreUrgent = (a: ReadyTask, b: ReadyTask) =>
  a.task.losses > 0 !== b.task.losses > 0
    ? a.task.losses > 0
    : a.task.priority !== b.task.priority
    ? a.task.priority < b.task.priority
    : a.claimedAt - a.task.waited < b.claimedAt - b.task.waited

/** Keys take turns: their tasks keep the order in which they were claimed. */
const overtakes = (a: ReadyTask, b: ReadyTask) =>
  a.task.concurrencyKey === undefined && b.task.concurrencyKey === undefined && isMoreUrgent(a, b)

/** What a claim brought from one queue; see `Claims`. */
export interface Claimed {
  readonly tasks: ReadonlyArray<ClaimedTask>
  readonly again: number | undefined
  readonly full: boolean
}

export class QueueSlots {
  readonly queue: string
  private readonly perProcess: number
  private readonly processes: () => number
  private readonly phase: number
  running = 0
  /** When to look again although nothing has called, by the monotonic clock. */
  againAt = Number.POSITIVE_INFINITY
  private handles: ReadonlyArray<Handled> = []
  private ready: Array<ReadyTask> = []
  private next = 0
  /** Whether there may be something to claim. */
  private hungry = true
  /** Whether there may be something to claim ahead. */
  private hungryAhead = true
  /** Whether as many of the queue run at once as may, here and elsewhere: one that ends here makes room for another. */
  private full = false
  /** Until when it leaves a place to others, and when it has to do so again, by the monotonic clock. */
  private restUntil = 0
  private restAt: number | undefined
  /** Whether there may be something more urgent than what is held ready. */
  private urgent = false
  /** Characters of a payload: of the largest lately, on average over a claim. */
  private size = 0
  /** Raised whenever something may have come, so that a claim under way does not overlook it. */
  private calls = 0
  /** Tasks per millisecond while any is running; smoothed. */
  private rate = 0
  private ended = 0
  private busy = 0
  private busySince = 0

  /**
   * `phase`: a number from 0 to 1 that other workers do not share. `processes`: in how many its tasks can run just now, with
   * this concurrency in each.
   */
  constructor(queue: string, concurrency: number, phase: number, processes: () => number = () => 1) {
    this.queue = queue
    this.perProcess = concurrency
    this.processes = processes
    this.phase = phase
  }

  /** Tasks that can run at once just now. */
  get concurrency(): number {
    return this.perProcess * this.processes()
  }

  /** Claims this from now on. */
  handle(handled: Handled) {
    this.handles = [...this.handles, { name: handled.name, version: handled.version }]
    this.call()
  }

  /** Claims this no more. */
  unhandle(name: string) {
    this.handles = this.handles.filter((handled) => handled.name !== name)
  }

  /** There may be something to claim, of this priority for all that is known. */
  call(priority = lowestPriority) {
    this.hungry = true
    this.hungryAhead = true
    this.calls++
    const last = this.ready.at(-1)
    if (last !== undefined && priority < last.task.priority) this.urgent = true
  }

  /**
   * What to claim now, if anything. A refill of what is held ready is only worth a claim when half of it is gone; an
   * idle slot always is, and so is what may be more urgent.
   */
  want(now: number): { readonly want: Want; readonly calls: number } | undefined {
    const { concurrency } = this
    if (!this.hungry || this.handles.length === 0 || concurrency === 0 || now < this.restUntil) return undefined
    const held = this.running + this.ready.length - this.next
    const slots = Math.min(mostClaimed, Math.max(0, concurrency - held))
    const target = this.target(now)
    const missing = Math.max(this.urgent ? concurrency : 0, concurrency + target - held - slots)
    const ahead = Math.min(missing, mostClaimed - slots, Math.floor(mostCharacters / Math.max(1, this.size)))
    if (slots === 0 && (!this.hungryAhead || !this.urgent && missing * 2 < target)) return undefined
    this.urgent = false
    return slots + ahead === 0
      ? undefined
      : { want: { queue: this.queue, handles: this.handles, slots, ahead }, calls: this.calls }
  }

  /**
   * Learns from a claim whether anything is left, unless something has called since: by what the broker says, in
   * milliseconds after which to look `again`, else by what it gave. Tasks that were lost before go into slots, and one at
   * most ahead: a claim whose slots they filled, or that had none, has not seen the end of them.
   */
  claimed(want: Want, calls: number, { again, full, tasks }: Claimed, now: number) {
    this.full = full
    if (again !== undefined && again > 0) this.againAt = Math.min(this.againAt, now + again)
    if (tasks.length > 0) {
      let characters = 0
      for (const { payload } of tasks) characters += payload.length
      this.size = Math.max(characters / tasks.length, this.size * 0.9)
    }
    if (calls !== this.calls || tasks.length >= want.slots + want.ahead) return
    this.hungryAhead = false
    // A queue that gives nothing ahead may all the same have something for the next free slot.
    if (again === 0) return
    if (tasks.filter((task) => task.losses > 0).length < want.slots) this.hungry = false
  }

  /** Holds a task ready, in the order in which tasks start. */
  hold(task: ReadyTask) {
    const last = this.ready.at(-1)
    if (last === undefined || this.next === this.ready.length || !overtakes(task, last)) {
      this.ready.push(task)
      return
    }
    let low = this.next
    let high = this.ready.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (isMoreUrgent(task, this.ready[middle]!)) high = middle
      else low = middle + 1
    }
    this.ready.splice(low, 0, task)
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

  /** More tasks of one name to start together with one that was taken, as many as slots are free. */
  takeMore(name: string, most: number): ReadonlyArray<ReadyTask> {
    const free = Math.min(most, this.concurrency - this.running)
    if (free <= 0 || this.next === this.ready.length) return []
    const taken: Array<ReadyTask> = []
    const rest: Array<ReadyTask> = []
    for (let i = this.next; i < this.ready.length; i++) {
      const ready = this.ready[i]!
      ;(taken.length < free && ready.task.name === name ? taken : rest).push(ready)
    }
    this.ready = rest
    this.next = 0
    this.running += taken.length
    return taken
  }

  /** A run has ended. Whether the queue rests from now on. */
  free(now: number): boolean {
    this.ended++
    this.putBack(now)
    if (!this.full) return false
    this.call()
    this.restAt ??= now + restInterval * this.phase
    if (now < this.restAt) return false
    this.restAt = now + restInterval * (0.75 + 0.5 * this.phase)
    this.restUntil = now + restTime
    this.againAt = Math.min(this.againAt, this.restUntil)
    return true
  }

  /** Whether there is nothing to do. */
  isIdle(): boolean {
    return this.running === 0 && this.next === this.ready.length
  }

  /** What was taken has not been started. */
  putBack(now: number) {
    if (--this.running === 0) this.busy += now - this.busySince
  }

  /** Looks again once the time that the broker gave has come. Whether it has. */
  lookAgain(now: number): boolean {
    if (now < this.againAt) return false
    this.againAt = Number.POSITIVE_INFINITY
    this.call()
    return true
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
    const shed = this.ready.slice(this.next)
    if (!shed.some(({ claimedAt }) => now - claimedAt >= horizon * 10)) return []
    this.ready = []
    this.next = 0
    this.rate = 0
    this.ended = 0
    this.busy = 0
    this.busySince = now
    return shed
  }

  /** Takes back what is held ready and has not started. */
  drop(which: (task: ClaimedTask) => boolean): ReadonlyArray<ReadyTask> {
    if (this.next === this.ready.length) return []
    const rest = this.ready.slice(this.next)
    this.ready = rest.filter(({ task }) => !which(task))
    this.next = 0
    return rest.filter(({ task }) => which(task))
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
