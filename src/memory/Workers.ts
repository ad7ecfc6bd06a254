/** Which worker starts are known, and how long each is believed alive. */
import type { WorkerStart } from "../Broker.ts"

interface Lease {
  readonly lease: number
  beatAt: number
  dead: boolean
}

export class Workers {
  private readonly leases = new Map<string, Lease>()

  /** Once more, as after an answer that was lost, is a heartbeat. */
  register({ id, lease }: WorkerStart, now: number) {
    if (this.leases.has(id)) this.renew(id, now)
    else this.leases.set(id, { lease, beatAt: now, dead: false })
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

  forget(id: string) {
    this.leases.delete(id)
  }

  /** Declares those dead whose lease has passed, and gives how many. */
  bury(now: number): number {
    let found = 0
    for (const lease of this.leases.values()) {
      if (lease.dead || lease.beatAt + lease.lease >= now) continue
      lease.dead = true
      found += 1
    }
    return found
  }
}
