/** When a failed attempt is repeated. */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Pull from "effect/Pull"
import * as Schedule from "effect/Schedule"
import { longest } from "./limits.ts"

/** How failed attempts are repeated. */
export interface Retry<E> {
  /** The most attempts after the first. Without it, the schedule decides. */
  readonly times?: number | undefined
  /** The time between attempts, from the end of one to the start of the next. Default: 1 second, doubled each time, at most 1 hour, with jitter. */
  readonly schedule?: Schedule.Schedule<unknown> | undefined
  /** Whether a failure with the definition's own error is worth another attempt. Defects and timeouts are always retried. */
  readonly while?: ((error: E) => boolean) | undefined
}

const defaultSchedule = Schedule.min([Schedule.exponential("1 second"), Schedule.spaced("1 hour")]).pipe(
  Schedule.jittered
)

/** The most delays of a preview. */
const mostPreviewed = 100

/** Whether `times` allows another attempt after this one. */
export const allows = <E>(retry: Retry<E> | undefined, attempt: number): retry is Retry<E> =>
  retry !== undefined && (retry.times === undefined || attempt <= retry.times)

/**
 * The delay before the attempt that follows `attempt`, or nothing when there is none. The schedule is stepped from its
 * beginning, as often as attempts have ended, so that it goes on in whichever process runs the task next. Its steps are
 * placed so that the last one is now: a schedule that looks at the time of day sees the right one.
 */
export const retryDelay = Effect.fnUntraced(function*<E>(retry: Retry<E> | undefined, attempt: number) {
  if (!allows(retry, attempt)) return undefined
  const schedule = retry.schedule ?? defaultSchedule
  const now = yield* Clock.currentTimeMillis
  const before = yield* delays(schedule, attempt - 1, now)
  if (before.length < attempt - 1) return undefined
  const all = yield* delays(schedule, attempt, now - before.reduce((sum, delay) => sum + delay, 0))
  const delay = all[attempt - 1]
  // A schedule may say for ever; what is longer than a broker can store is that.
  return delay === undefined ? undefined : Math.min(delay, longest)
})

/**
 * The delays before the attempts after the first, as they would be if the first failed now; at most 100. Attempts take
 * no time in this preview, and a schedule with jitter gives other delays each time. A definition without `retry` has
 * none.
 *
 * @example
 * ```ts
 * const delays = yield* Task.retryTimes(ResizeImage)
 * ```
 */
export const retryTimes = (
  definition: { readonly retry: Retry<never> | undefined }
): Effect.Effect<ReadonlyArray<Duration.Duration>> =>
  Effect.gen(function*() {
    const { retry } = definition
    if (retry === undefined) return []
    const now = yield* Clock.currentTimeMillis
    const found = yield* delays(
      retry.schedule ?? defaultSchedule,
      Math.min(retry.times ?? mostPreviewed, mostPreviewed),
      now
    )
    return found.map((delay) => Duration.millis(delay))
  })

/** The first delays of a schedule, in milliseconds; fewer when it ends before. */
const delays = Effect.fnUntraced(function*(schedule: Schedule.Schedule<unknown>, count: number, from: number) {
  const step = yield* Schedule.toStep(schedule)
  const found: Array<number> = []
  let now = from
  for (let i = 0; i < count; i++) {
    const stepped = yield* Pull.catchDone(step(now, undefined), () => Effect.undefined)
    if (stepped === undefined) break
    const delay = Duration.toMillis(stepped[1])
    found.push(delay)
    now += delay
  }
  return found
})
