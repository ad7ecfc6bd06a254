/** What the model remembers of each task, worker and queue. */
import type { AttemptRecord, Definition, Hold, QueueSettings, TaskRecord } from "../../Broker.ts"
import type { Tokens } from "./Tokens.ts"

type Mutable<A> = { -readonly [K in keyof A]: A[K] }

/** A task as it has to be. */
export interface ModelTask extends Mutable<Omit<TaskRecord, "history">> {
  /** A short name for reports. */
  readonly alias: string
  readonly maxLosses: number
  /** Milliseconds, when it has one of its own. */
  readonly retention: number | undefined
  /** Whether it needs no promotion before it is claimed. */
  ready: boolean
  history: Array<AttemptRecord>
}

export interface ModelWorker {
  readonly alias: string
  readonly id: string
  readonly lease: number
  readonly handles: ReadonlyArray<Definition>
  beatAt: number
  /** Sends no heartbeats any more, whether the broker knows that or not. */
  crashed: boolean
  state: "alive" | "dead" | "unknown"
}

/** A hold that was given to a worker, standing or not. */
export interface Given extends Hold {
  readonly worker: string
}

export interface ModelQueue {
  settings: QueueSettings
  tokens: Tokens
  readonly keys: Map<string, Tokens>
}

export const isMoreUrgent = (a: ModelTask, b: ModelTask): boolean =>
  a.priority !== b.priority ? a.priority < b.priority : a.dueAt !== b.dueAt ? a.dueAt < b.dueAt : a.id < b.id
