/** What a run leaves behind, as the checker reads it. */
import type { BeginLine, CancelledLine, EndLine, SendLine } from "./journal.ts"

/** A send, and what came of it. Times are milliseconds since the epoch. */
export interface Send extends Omit<SendLine, "what"> {
  /** When it had succeeded; none when nobody knows. */
  readonly acknowledgedAt: number | undefined
  /** The id of the task that is stored, as the broker said. */
  readonly stored: string | undefined
  /** Why it was refused for good. */
  readonly refused: string | undefined
}

/** A run of a handler. */
export interface Run extends Pick<BeginLine, "task" | "fence" | "at"> {
  /** The process that ran it, and the one that had claimed it. */
  readonly pid: number
  readonly parent: number
  readonly worker: number
  readonly end: Pick<EndLine, "at" | "how"> | undefined
}

/** An attempt as the table has it, or the loss of one. */
export interface PastAttempt {
  readonly outcome: string
  /** None: nobody knows. */
  readonly startedAt: number | null
  readonly endedAt: number
}

/** A row of the history: an outcome that was recorded. */
export interface Outcome {
  readonly task: string
  readonly state: string
  readonly fence: number
  readonly attempts: number
  /** What kind of failure it is, if it is one. */
  readonly failure: string | undefined
  /** Which run has come to it, as that run itself says. */
  readonly by: { readonly fence: number; readonly pid: number } | undefined
  /** Attempts and losses before, in their order. */
  readonly past: ReadonlyArray<PastAttempt>
  /** When its last attempt started. None: it had none, or nobody knows. */
  readonly startedAt: number | null
  readonly endedAt: number
}

/** A fault that has happened. */
export interface Happened {
  readonly what: "kill" | "freeze" | "stall" | "cut" | "partition" | "restart" | "delay"
  readonly detail: string
  readonly at: number
  /** When it was over: the process goes on or another has taken its place, the server is back. */
  readonly until: number
  /** The worker whose processes or connections it has hit. None: a producer's, or those of all. */
  readonly worker: number | undefined
  /** Processes that it has hit. None: all of them. */
  readonly pids: ReadonlyArray<number> | undefined
}

/** A task that was sent to an idle worker. */
export interface Probe {
  readonly task: string
  readonly worker: number
  readonly at: number
}

/** Milliseconds in which things have to happen. */
export interface Bounds {
  readonly lease: number
  readonly heartbeatInterval: number
  /** From a fault until what it has hit runs again. */
  readonly recovery: number
  /** From a send to an idle worker until the start. */
  readonly start: number
}

export interface Evidence {
  readonly seed: number
  /** How many workers there are. */
  readonly workers: number
  readonly sends: ReadonlyArray<Send>
  readonly runs: ReadonlyArray<Run>
  readonly outcomes: ReadonlyArray<Outcome>
  /** Tasks that have not ended. */
  readonly live: ReadonlyArray<{ readonly task: string; readonly state: string; readonly fence: number }>
  /** Rows of transactional tasks. */
  readonly effects: ReadonlyArray<{ readonly task: string; readonly fence: number }>
  /** Tasks that the broker has said are cancelled. */
  readonly cancelled: ReadonlyArray<CancelledLine["id"]>
  readonly faults: ReadonlyArray<Happened>
  /** Kinds of faults that were planned, and of which none has happened. */
  readonly missing: ReadonlyArray<string>
  /** Processes that have ended by themselves, and how. */
  readonly crashed: ReadonlyArray<string>
  /** What has come to no end: processes that did not start again, or did not end when they were told to; waiting tasks. */
  readonly hung: ReadonlyArray<string>
  readonly probes: ReadonlyArray<Probe>
  readonly bounds: Bounds
}
