/**
 * Reads the state of everything, and is how an operator steps in: find tasks, ask why one does not run, cancel, send
 * failed ones again, pause a queue and set its limits.
 *
 * Everything here holds for all processes that use the same broker, and needs nothing but the `Broker`: no definition,
 * no worker. So payloads and results are JSON texts, and times are milliseconds since the epoch, by the broker's clock.
 * Everything can fail with a `BrokerError`.
 *
 * @example
 * ```ts
 * import { Monitor } from "effect-horsies"
 * import { Console, Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   for (const { id, name, outcome } of yield* Monitor.failed({ tags: { customer: "acme" } })) {
 *     yield* Console.log(id, name, outcome)
 *   }
 *   yield* Monitor.resend({ tags: { customer: "acme" } })
 *   yield* Monitor.pause("mail")
 * })
 * ```
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import {
  Broker,
  BrokerError,
  type Cancelled,
  type Filter,
  type Limits as BrokerLimits,
  type Page,
  type QueueSettings,
  Refused,
  type TaskRecord,
  type WhyNotRunning
} from "./Broker.ts"
import type { Limits } from "./Worker.ts"

/** Everything that is known of a task, live or ended; none when it was never sent, or is no longer kept. */
export const task = (id: string): Effect.Effect<Option.Option<TaskRecord>, BrokerError, Broker> =>
  Broker.use((broker) => broker.find(id))

/**
 * Tasks that fit everything that the filter gives, live and ended, the last sent first. Without a filter all, a page of
 * 100 at a time: the next page is `before` the last id of this one.
 *
 * @example
 * ```ts
 * const waiting = yield* Monitor.tasks({ queue: "mail" }, { states: ["PENDING"], limit: 20 })
 * const more = yield* Monitor.tasks({ queue: "mail" }, { states: ["PENDING"], limit: 20, before: waiting.at(-1)?.id })
 * ```
 */
export const tasks = (
  filter: Filter = {},
  page: Page = {}
): Effect.Effect<ReadonlyArray<TaskRecord>, BrokerError, Broker> => Broker.use((broker) => broker.list(filter, page))

/**
 * The dead letters: tasks that ended FAILED, the last sent first. One that was sent again stays among them as long as it
 * is kept; its `successor` is the task as which it was.
 */
export const failed = (
  filter: Filter = {},
  page: Omit<Page, "states"> = {}
): Effect.Effect<ReadonlyArray<TaskRecord>, BrokerError, Broker> => tasks(filter, { ...page, states: ["FAILED"] })

/**
 * Why a task does not run: one answer, the first that applies, in the order of `Broker.WhyNotRunning`.
 *
 * @example
 * ```ts
 * const why = yield* Monitor.whyNotRunning(id)
 * if (why._tag === "Concurrency") yield* Console.log(`waits for one of ${why.holders.length} others`)
 * ```
 */
export const whyNotRunning = (id: string): Effect.Effect<WhyNotRunning, BrokerError, Broker> =>
  Broker.use((broker) => broker.whyNotRunning(id))

/**
 * Cancels all tasks that fit the filter; an empty one means every task that there is. What waits is CANCELLED at once.
 * What a worker holds is `requested`: its handler is interrupted, and the task ends CANCELLED unless it has ended before.
 * What has ended is left as it is.
 *
 * @example
 * ```ts
 * yield* Monitor.cancel({ tags: { customer: "acme" } })
 * yield* Monitor.cancel({ name: "Pay", idempotencyKey: "invoice 7" })
 * ```
 */
export const cancel = (filter: Filter): Effect.Effect<Cancelled, BrokerError, Broker> =>
  Broker.use((broker) => broker.cancel(filter))

/**
 * Sends all FAILED tasks again that fit the filter; an empty one means all. Each becomes a new task, due now, with the
 * payload, priority, concurrency key, tags, timeout and retention of the old one, and with all its attempts before it. The
 * old one keeps its record and names its `successor`, the new one its `origin`. Each is sent again once. Succeeds with
 * the old and the new ids.
 */
export const resend = (
  filter: Filter
): Effect.Effect<ReadonlyArray<{ readonly origin: string; readonly id: string }>, BrokerError, Broker> =>
  Broker.use((broker) => broker.resend(filter))

/** What is set for a queue. Of one that nobody has ever set anything for: not paused, no limits. */
export const queue = (queue: string): Effect.Effect<QueueSettings, BrokerError, Broker> =>
  Broker.use((broker) => broker.queue(queue))

/**
 * Pauses a queue: no worker starts any of its tasks, until it is resumed. What runs goes on; sending too. Workers that
 * are started later keep to it.
 */
export const pause = (queue: string): Effect.Effect<void, BrokerError, Broker> =>
  Broker.use((broker) => broker.configureQueue(queue, { paused: true }))

/** Resumes a paused queue. */
export const resume = (queue: string): Effect.Effect<void, BrokerError, Broker> =>
  Broker.use((broker) => broker.configureQueue(queue, { paused: false }))

/**
 * Sets the limits of a queue over all workers, instead of those that were there: `{}` lifts them all. They hold for claims
 * that begin afterwards, and count what is claimed already. A worker whose own options have limits for this queue sets
 * those when it starts.
 *
 * Fails with a `BrokerError` whose reason is `Refused` when a limit is none.
 *
 * @example
 * ```ts
 * yield* Monitor.limit("mail", {
 *   concurrency: 20,
 *   rate: { limit: 100, per: "1 minute" },
 *   perKey: { concurrency: 2 }
 * })
 * ```
 */
export const limit = (queue: string, limits: Limits): Effect.Effect<void, BrokerError, Broker> =>
  Broker.use((broker) => {
    const inMillis = { ...bothOf(limits), perKey: limits.perKey === undefined ? undefined : bothOf(limits.perKey) }
    const wrong = wrongLimit("", inMillis) ?? wrongLimit("perKey.", inMillis.perKey ?? {})
    return wrong === undefined
      ? broker.configureQueue(queue, { limits: inMillis })
      : Effect.fail(new BrokerError({ reason: new Refused({ message: `the limits of ${queue}: ${wrong}` }) }))
  })

type Both = Pick<BrokerLimits, "concurrency" | "rate">

const bothOf = ({ concurrency, rate }: Omit<Limits, "perKey">): Both => ({
  concurrency,
  rate: rate === undefined ? undefined : { ...rate, per: millisOf(rate.per) }
})

const millisOf = (input: Duration.Input): number =>
  Option.match(Duration.fromInput(input), { onNone: () => Number.NaN, onSome: Duration.toMillis })

/** An operator may have typed them: a bad one is no defect, as it is among the constants of a worker. */
const wrongLimit = (of: string, { concurrency, rate }: Both): string | undefined => {
  const counts = { concurrency, "rate.limit": rate?.limit, "rate.burst": rate?.burst }
  for (const [option, value] of Object.entries(counts)) {
    if (value !== undefined && !(Number.isInteger(value) && value >= 1)) {
      return `${of}${option} is ${value}; write a whole number of at least 1`
    }
  }
  return rate === undefined || (rate.per > 0 && Number.isFinite(rate.per))
    ? undefined
    : `${of}rate.per is out of range; write a finite duration of more than 0`
}
