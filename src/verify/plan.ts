/** Which faults a run meets, and when: from its seed. */
import type { Cut } from "./Proxy.ts"
import { chance, one, whole } from "./random.ts"

/** How a worker is frozen: with its children, or alone while they go on. */
export type Frozen = "group" | "worker"

export type Fault =
  | { readonly what: "kill"; readonly whom: "worker" | "child" | "producer" }
  | { readonly what: "freeze"; readonly whom: Frozen; readonly millis: number }
  /** The event loop of one child stands still for a while. */
  | { readonly what: "stall"; readonly millis: number }
  | { readonly what: "cut"; readonly how: Cut; readonly whom: "worker" | "producers" }
  /** A link is dead without a sign, then reset. */
  | { readonly what: "swallow"; readonly millis: number }
  /** Nothing gets through between a worker and the server, without a sign, for longer than a lease. */
  | { readonly what: "partition"; readonly millis: number }
  | { readonly what: "terminate"; readonly backends: number }
  | { readonly what: "delay"; readonly late: number; readonly millis: number }
  /** `down`: how long the server stays away. */
  | { readonly what: "restart"; readonly how: "fast" | "immediate"; readonly down: number }

/** What counts as the same when it comes to whether it has happened. */
export const kindOf = (fault: Fault): string =>
  "whom" in fault
    ? `${fault.what} ${fault.whom}`
    : fault.what === "restart"
    ? `${fault.what} ${fault.how}`
    : fault.what

export interface Planned {
  /** Milliseconds from the beginning of the run. */
  readonly at: number
  readonly fault: Fault
  /** A number for whoever has to choose a victim. */
  readonly choice: number
}

export interface Options {
  readonly seed: number
  readonly seconds: number
  /** Milliseconds. */
  readonly lease: number
  /** Whether the server may be restarted. */
  readonly restarts: boolean
  /** Whether it may stay away for a while then. */
  readonly outages: boolean
  /** Whether workers have child processes. */
  readonly children: boolean
}

/** How often per minute. */
const perMinute = {
  workers: 6,
  children: 14,
  producers: 3,
  freezes: 5,
  stalls: 2,
  cuts: 24,
  swallows: 2,
  partitions: 1,
  ends: 4,
  delays: 4
}

/** Milliseconds in which nothing happens at the beginning: processes start. */
const calm = 4000

/** The faults of a run, in their order. */
export const plan = ({ children, lease, outages, restarts, seconds, seed }: Options): ReadonlyArray<Planned> => {
  const random = chance(seed, "faults")
  const length = Math.max(1000, seconds * 1000 - calm)
  const found: Array<Planned> = []
  const beyondLease = () => whole(random, Math.ceil(lease * 1.1), Math.floor(lease * 1.6))

  /** Spread over the run: one in each of as many parts. */
  const add = (rate: number, make: (i: number) => Fault) => {
    const count = Math.max(1, Math.round(rate * seconds / 60))
    for (let i = 0; i < count; i++) {
      const at = calm + (i + random()) * length / count
      found.push({ at, fault: make(i), choice: random() })
    }
  }

  add(perMinute.workers, () => ({ what: "kill", whom: "worker" }))
  if (children) add(perMinute.children, () => ({ what: "kill", whom: "child" }))
  else add(perMinute.children, () => ({ what: "kill", whom: "worker" }))
  add(perMinute.producers, () => ({ what: "kill", whom: "producer" }))
  add(perMinute.freezes, (i) => ({
    what: "freeze",
    whom: children && i % 3 === 2 ? "worker" : "group",
    millis: beyondLease()
  }))
  if (children) add(perMinute.stalls, () => ({ what: "stall", millis: whole(random, 1000, 6000) }))
  add(perMinute.cuts, (i) => ({
    what: "cut",
    how: one(random, ["reset", "end", "half"]),
    whom: i % 4 === 3 ? "producers" : "worker"
  }))
  add(perMinute.swallows, () => ({ what: "swallow", millis: whole(random, 500, lease * 2) }))
  add(perMinute.partitions, () => ({ what: "partition", millis: beyondLease() }))
  add(perMinute.ends, () => ({ what: "terminate", backends: whole(random, 1, 10) }))
  add(perMinute.delays, () => ({ what: "delay", late: whole(random, 20, 200), millis: whole(random, 500, 3000) }))
  // In turns: a crash, an orderly restart, an outage of more than a lease.
  if (restarts) {
    add(4, (i) => ({
      what: "restart",
      how: i % 2 === 0 ? "immediate" : "fast",
      down: outages && i % 4 === 3 ? lease + 1000 : 0
    }))
  }
  return found.sort((a, b) => a.at - b.at)
}
