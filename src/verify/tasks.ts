/** The tasks of a run: of each kind something else can go wrong. */
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Task from "../Task.ts"

/** Where all but the lanes and the probes wait. */
export const queue = "verify"

/** Where concurrency keys have limits. */
export const lanesQueue = "verify-lanes"

/** The queue that only the worker of this slot serves. */
export const probeQueue = (slot: number) => `verify-probe-${slot}`

/** Attempts after the first of a task that fails. */
export const retries = 3

/** Workers that any task may cost before it has failed: what definitions have by default. */
export const mostLosses = 3

const payload = {
  n: Schema.Int,
  /** How long the handler takes. */
  millis: Schema.Int,
  /** How many attempts fail. */
  failures: Schema.Int,
  key: Schema.String
}

/** Which run it was that has come to an end: the hold under which it is recorded must be its own. */
export const Ran = Schema.Struct({ fence: Schema.Int, pid: Schema.Int })

/** An attempt that was meant to fail. Says which run it was, too. */
export class Flaky extends Schema.TaggedError<Flaky>()("Flaky", { fence: Schema.Int, pid: Schema.Int }) {}

const common = { payload, success: Ran, error: Flaky, queue }

/** The definitions, by kind. */
export const definitions = {
  plain: Task.make("verify-plain", common),
  /** Fails some of its attempts, or all of them. */
  retried: Task.make("verify-retried", {
    ...common,
    retry: { times: retries, schedule: Schedule.spaced("50 millis") }
  }),
  delayed: Task.make("verify-delayed", common),
  /** Writes one row in the transaction of its completion. */
  transactional: Task.make("verify-transactional", common),
  /** Sent several times under one idempotency key. */
  once: Task.make("verify-once", { ...common, idempotencyKey: ({ key }) => key }),
  /** Has a concurrency key. */
  lane: Task.make("verify-lane", { ...common, queue: lanesQueue, concurrencyKey: ({ key }) => key }),
  /** Cancelled soon after it was sent. */
  cancelled: Task.make("verify-cancelled", common)
}

export type Kind = keyof typeof definitions

/** What the worker of this slot alone runs, to see that a wake-up reaches it. */
export const probe = (slot: number) =>
  Task.make(`verify-probe-${slot}`, { payload: {}, success: Ran, queue: probeQueue(slot) })

/** Rows that transactional tasks write. No key keeps a second one out: it is to be seen. */
export const effectsTable = (schema: string) => `${schema}.horsies_verify_effects`
