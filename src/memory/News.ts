/** What others are to hear of a step, once it is over. */
import type { Outcome, WakeUp } from "../Broker.ts"
import type { Entry } from "./Entry.ts"

export class News {
  ended: Array<readonly [id: string, outcome: Outcome]> = []
  /** Tasks that wait now. */
  waiting: Array<Entry> = []
  /** Capped queues in which a claim has ended. */
  freed = new Set<string>()
  wakeUps: Array<WakeUp> = []
}
