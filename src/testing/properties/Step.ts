/**
 * What can be done to a broker, as data. A step names workers, tasks and holds by numbers that are taken modulo what
 * there is when it is done; so any steps of a sequence can be left out, and the others still mean something.
 */
import type { AttemptEnd, Limits } from "../../Broker.ts"

/** A time: after so many milliseconds from now, or so many before now as a point in time. */
export interface Delay {
  readonly millis: number
  readonly asPoint: boolean
}

/** How a task is sent that was sent before, or pretends to be. */
export type RepeatKind = "same" | "other payload" | "other name" | "unsaid"

export interface Draft {
  readonly queue: number
  readonly name: number
  readonly version: number
  readonly priority: number
  readonly due: Delay
  readonly goodUntil: Delay | undefined
  readonly timeout: number | undefined
  readonly maxLosses: number
  readonly key: number | undefined
  readonly tag: number | undefined
  readonly retention: number | undefined
  readonly idempotency: { readonly key: number; readonly window: number } | undefined
  /** Goes into the id, so that ids of one millisecond come in any order. */
  readonly salt: number
  readonly repeats: { readonly task: number; readonly kind: RepeatKind } | undefined
}

export interface WantDraft {
  readonly queue: number
  /** Which names, and up to which version. */
  readonly names: ReadonlyArray<number>
  readonly version: number
  readonly slots: number
  readonly ahead: number
}

/** Whose hold a worker names: one of its own that stands, one that was taken away or has ended, or one of another worker. */
export type Whose = "standing" | "stale" | "foreign"

export interface Pick {
  readonly hold: number
  readonly whose: Whose
  readonly end: AttemptEnd
  readonly elapsed: number | undefined
}

export interface FilterDraft {
  readonly ids?: ReadonlyArray<number>
  readonly name?: number
  readonly queue?: number
  readonly key?: number
  readonly tag?: number
  /** With the name. */
  readonly idempotencyKey?: number
}

export type Step =
  /** `unclear`: the answer is lost, so the sender does it once more. */
  | { readonly _tag: "Send"; readonly drafts: ReadonlyArray<Draft>; readonly unclear: boolean }
  | { readonly _tag: "Start"; readonly names: ReadonlyArray<number>; readonly version: number; readonly lease: number }
  /** `together`: by all workers at the same time. */
  | {
    readonly _tag: "Claim"
    readonly worker: number
    readonly wants: ReadonlyArray<WantDraft>
    readonly together: boolean
  }
  | {
    readonly _tag: "Finish"
    readonly worker: number
    readonly picks: ReadonlyArray<Pick>
    readonly wants: ReadonlyArray<WantDraft>
    readonly unclear: boolean
  }
  | {
    readonly _tag: "Release"
    readonly worker: number
    readonly picks: ReadonlyArray<Pick>
    readonly unclear: boolean
  }
  | { readonly _tag: "Heartbeat"; readonly worker: number }
  /** From now on the worker sends no heartbeats. */
  | { readonly _tag: "Crash"; readonly worker: number }
  | { readonly _tag: "Deregister"; readonly worker: number }
  /** Time passes; afterwards the workers that have not crashed beat, if they do. */
  | { readonly _tag: "Pass"; readonly millis: number; readonly beats: boolean }
  | { readonly _tag: "Promote"; readonly queues: ReadonlyArray<number> }
  | { readonly _tag: "Recover"; readonly together: boolean }
  | { readonly _tag: "Cancel"; readonly filter: FilterDraft }
  | { readonly _tag: "Resend"; readonly filter: FilterDraft }
  | { readonly _tag: "Pause"; readonly queue: number; readonly paused: boolean }
  | { readonly _tag: "Limit"; readonly queue: number; readonly limits: Limits }
  /** Looks one task up in every way. */
  | { readonly _tag: "Look"; readonly task: number }
  | { readonly _tag: "List"; readonly filter: FilterDraft; readonly states: number; readonly limit: number }
  /** Somebody begins to wait for the outcome. */
  | { readonly _tag: "Await"; readonly task: number }
