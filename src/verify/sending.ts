/** What a producer sends, from its seed. */
import { type Chance, one, whole } from "./random.ts"
import { type Kind, retries } from "./tasks.ts"

/** A task as a producer means it. */
export interface Plan {
  readonly n: number
  readonly kind: Kind
  readonly millis: number
  readonly failures: number
  readonly key: string
  /** Milliseconds until it is due. */
  readonly delay: number
  /** How often it is sent in all, each time with an id of its own. */
  readonly times: number
}

/** Plain ones are the most, then transactional ones; of every other kind there are as many. */
const kinds: readonly [Kind, ...ReadonlyArray<Kind>] = [
  "plain",
  "plain",
  "plain",
  "plain",
  "retried",
  "delayed",
  "transactional",
  "transactional",
  "once",
  "lane",
  "cancelled"
]

/** Keys that have limits of their own. */
const lanes = 8

/** The task of this number of a producer. `long`: the share of handlers that take long enough to be hit by a fault. */
export const plan = (producer: number, n: number, long: number, chance: Chance): Plan => {
  const kind = one(chance, kinds)
  return {
    n,
    kind,
    millis: chance() < long ? whole(chance, 500, 3000) : whole(chance, 0, 10),
    failures: kind === "retried" ? whole(chance, 0, retries + 1) : 0,
    key: kind === "lane" ? `lane-${whole(chance, 1, lanes)}` : `${producer}-${n}`,
    delay: kind === "delayed" ? whole(chance, 100, 3000) : 0,
    times: kind === "once" ? 3 : 1
  }
}
