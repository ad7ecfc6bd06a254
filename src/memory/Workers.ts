/** Which worker starts are known, what they handle, and how long each is believed alive. */
import type { Definition, WorkerSnapshot, WorkerStart, WorkerState } from "../Broker.ts"

/** How long snapshots are kept, in milliseconds. */
const historyTime = 30 * 60_000

interface Lease {
  readonly lease: number
  readonly host: string
  readonly pid: number
  handles: ReadonlyArray<Definition>
  beatAt: number
  dead: boolean
}

export class Workers {
  private readonly leases = new Map<string, Lease>()
  /** Snapshots of each worker, the oldest first. */
  private readonly history = new Map<string, Array<WorkerState>>()

  /** Once more, as after an answer that was lost or with more handlers, is a heartbeat. */
  register({ handles, host, id, lease, pid }: WorkerStart, now: number) {
    const known = this.leases.get(id)
    if (known === undefined) {
      this.leases.set(id, { lease, host, pid, handles, beatAt: now, dead: false })
    } else {
      known.handles = handles
      this.renew(id, now)
    }
  }

  /** Known and not declared dead. One whose lease has passed is alive until somebody finds out. */
  isAlive(id: string): boolean {
    return this.leases.get(id)?.dead === false
  }

  renew(id: string, now: number): boolean {
    const lease = this.leases.get(id)
    if (lease === undefined || lease.dead) return false
    lease.beatAt = now
    return true
  }

  /** Keeps a snapshot of a worker that is alive. */
  keep(worker: string, snapshot: WorkerSnapshot, now: number) {
    this.expire(now)
    const { host, pid } = this.leases.get(worker)!
    const states = this.history.get(worker) ?? []
    this.history.set(worker, states)
    states.push({ ...snapshot, worker, host, pid, at: now })
  }

  /** The snapshots of one worker, the last first; without one, the last of each. */
  states(worker: string | undefined, now: number): ReadonlyArray<WorkerState> {
    this.expire(now)
    return worker === undefined
      ? [...this.history.values()].map((states) => states.at(-1)!)
      : (this.history.get(worker) ?? []).toReversed()
  }

  private expire(now: number) {
    for (const [worker, states] of this.history) {
      const kept = states.filter(({ at }) => at >= now - historyTime)
      if (kept.length === 0) this.history.delete(worker)
      else if (kept.length < states.length) this.history.set(worker, kept)
    }
  }

  forget(id: string) {
    this.leases.delete(id)
  }

  /** Declares those dead whose lease has passed, and gives how many. */
  bury(now: number): number {
    let found = 0
    for (const lease of this.leases.values()) {
      if (lease.dead || !isOver(lease, now)) continue
      lease.dead = true
      found += 1
    }
    return found
  }

  /** Milliseconds until the next lease passes of a worker that is believed alive. */
  nextLapse(now: number): number | undefined {
    const left = [...this.leases.values()].filter(({ dead }) => !dead).map(({ beatAt, lease }) => beatAt + lease - now)
    return left.length === 0 ? undefined : Math.min(...left)
  }

  /** The highest version of a name that a worker whose lease has not passed handles in this queue. */
  known(queue: string, name: string, now: number): number | undefined {
    let highest: number | undefined
    for (const lease of this.leases.values()) {
      if (lease.dead || isOver(lease, now)) continue
      for (const handled of lease.handles) {
        if (handled.queue === queue && handled.name === name) highest = Math.max(highest ?? 0, handled.version)
      }
    }
    return highest
  }
}

const isOver = ({ beatAt, lease }: Lease, now: number) => beatAt + lease < now
