/** Random sequences of steps. The same seed gives the same sequence. */
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import { type AttemptEnd, FailureKind, Interruption, type Limits, type Rate } from "../../Broker.ts"
import type { Delay, Draft, FilterDraft, Pick, RepeatKind, Step, WantDraft, Whose } from "./Step.ts"

const second = 1000
const hour = 3_600_000
const day = 24 * hour

/** How attempts fail. A loss is not reported, but found out. */
const kinds = FailureKind.literals.filter((kind) => kind !== "Lost")

/** Chances and choices out of one source of chance. */
const chooser = (random: Random.Random) => {
  const whole = (from: number, to: number) => from + Math.floor(random.nextDoubleUnsafe() * (to - from + 1))
  const chance = (probability: number) => random.nextDoubleUnsafe() < probability
  const among = <A>(items: ReadonlyArray<A>): A => items[whole(0, items.length - 1)]!
  const maybe = <A>(probability: number, make: () => A): A | undefined => chance(probability) ? make() : undefined
  const weighted = <A>(choices: ReadonlyArray<readonly [weight: number, make: () => A]>): A => {
    let rest = random.nextDoubleUnsafe() * choices.reduce((sum, [weight]) => sum + weight, 0)
    for (const [weight, make] of choices) {
      rest -= weight
      if (rest < 0) return make()
    }
    return choices[0]![1]()
  }
  const some = <A>(items: ReadonlyArray<A>, probability: number): ReadonlyArray<A> => {
    const chosen = items.filter(() => chance(probability))
    return chosen.length === 0 ? [among(items)] : chosen
  }
  /** Any number of tasks, workers or holds: whoever takes the step takes the remainder. */
  const any = () => whole(0, 1_000_000)
  return { whole, chance, among, maybe, weighted, some, any }
}

/** How the steps of one sequence lean, so that rare things come together often enough. */
interface Leaning {
  readonly keyed: boolean
  readonly limited: boolean
  /** All tasks of a queue lie in one lane, and compete. */
  readonly narrow: boolean
}

const make = (random: Random.Random) => {
  const { among, any, chance, maybe, some, weighted, whole } = chooser(random)
  const narrow = chance(0.3)
  const leaning: Leaning = { keyed: !narrow && chance(0.7), limited: chance(0.5), narrow }

  const delay = (): Delay =>
    weighted<Delay>([
      [leaning.narrow ? 1 : 6, () => ({ millis: 0, asPoint: false })],
      [2, () => ({ millis: whole(1, 20) * second, asPoint: chance(0.5) })],
      [2, () => ({ millis: -whole(1, 60_000), asPoint: true })],
      [0.3, () => ({ millis: hour, asPoint: false })]
    ])

  const draft = (first: boolean): Draft => ({
    queue: leaning.narrow ? 0 : whole(0, 1),
    name: leaning.narrow ? 0 : whole(0, 1),
    version: leaning.narrow || chance(0.8) ? 1 : 2,
    priority: leaning.narrow ? 100 : among([1, 50, 100, 100]),
    due: delay(),
    goodUntil: maybe(0.15, () => ({ millis: whole(1, 60) * second, asPoint: chance(0.5) })),
    timeout: maybe(0.1, () => whole(1, 5) * second),
    maxLosses: whole(1, 3),
    key: leaning.keyed ? maybe(0.6, () => whole(0, 2)) : undefined,
    tag: maybe(0.4, () => whole(0, 1)),
    retention: maybe(0.1, () => hour),
    idempotency: maybe(0.2, () => ({ key: whole(0, 1), window: among([5 * second, hour]) })),
    salt: any(),
    // At most one task of a send can be refused, so that it is clear which.
    repeats: first
      ? maybe(0.15, () => ({
        task: any(),
        kind: among<RepeatKind>(["same", "same", "same", "other payload", "other name", "unsaid"])
      }))
      : undefined
  })

  const want = (queue: number): WantDraft => ({
    queue,
    names: some([0, 1], 0.8),
    version: chance(0.5) ? 1 : 2,
    slots: leaning.narrow ? whole(1, 2) : whole(0, 4),
    ahead: leaning.narrow || chance(0.5) ? 0 : whole(1, 3)
  })

  const wants = () => some([0, 1], 0.5).map(want)

  const failure = () => ({ kind: among(kinds), value: among([`"oh"`, "null", `{"a":[1]}`]) })

  const end = (): AttemptEnd =>
    weighted<AttemptEnd>([
      [4, () => ({ _tag: "Completed", value: among(["1", "null", `{"b":"é"}`]) })],
      [3, () => ({ _tag: "Failed", failure: failure() })],
      [3, () => ({ _tag: "Retry", failure: failure(), delay: among([0, 0, 1, second, 10 * second]) })],
      [2, () => ({ _tag: "Snoozed", delay: among([0, second, 10 * second]) })],
      [2, () => ({ _tag: "Interrupted", why: among(Interruption.literals) })],
      [1, () => ({ _tag: "Lost" })],
      [1, () => ({ _tag: "Cancelled" })],
      [1, () => ({ _tag: "Expired" })]
    ])

  const pick = (): Pick => {
    const ended = end()
    return {
      hold: any(),
      whose: weighted<Whose>([[8, () => "standing"], [2, () => "stale"], [1, () => "foreign"]]),
      end: ended,
      // What came too late has not started.
      elapsed: ended._tag === "Expired" || chance(0.15) ? undefined : whole(0, 500)
    }
  }

  const picks = () => Array.from({ length: whole(1, 3) }, pick)

  const filter = (): FilterDraft =>
    weighted<FilterDraft>([
      [3, () => ({ ids: Array.from({ length: whole(1, 3) }, any) })],
      [1, () => ({ queue: whole(0, 1) })],
      [1, () => ({ name: whole(0, 1) })],
      [1, () => ({ key: whole(0, 2) })],
      [2, () => ({ tag: whole(0, 1) })],
      [2, () => ({ name: whole(0, 1), idempotencyKey: whole(0, 1) })],
      [1, () => ({ name: whole(0, 1), queue: whole(0, 1), tag: whole(0, 1) })]
    ])

  const rate = (): Rate => ({
    limit: whole(1, 3),
    per: among([second, 20 * second, 60 * second]),
    burst: maybe(0.5, () => whole(1, 2))
  })

  const limits = (): Limits =>
    chance(0.3) ? {} : {
      concurrency: maybe(0.6, () => whole(1, 3)),
      rate: maybe(0.4, rate),
      perKey: maybe(0.4, () => ({ concurrency: maybe(0.7, () => whole(1, 2)), rate: maybe(0.5, rate) }))
    }

  const start = (): Step => ({
    _tag: "Start",
    names: some([0, 1], 0.85),
    version: chance(0.4) ? 1 : 2,
    lease: among([10, 30]) * second
  })

  const send = (): Step => ({
    _tag: "Send",
    drafts: Array.from({ length: whole(1, 4) }, (_, i) => draft(i === 0)),
    unclear: chance(0.15)
  })

  const step = (): Step =>
    weighted<Step>([
      [10, send],
      [2, start],
      [12, () => ({ _tag: "Claim", worker: any(), wants: wants(), together: chance(0.1) })],
      [
        11,
        () => ({
          _tag: "Finish",
          worker: any(),
          picks: picks(),
          wants: chance(0.3) ? wants() : [],
          unclear: chance(0.15)
        })
      ],
      [3, () => ({ _tag: "Release", worker: any(), picks: picks(), unclear: chance(0.15) })],
      [2, () => ({ _tag: "Heartbeat", worker: any() })],
      [2, () => ({ _tag: "Crash", worker: any() })],
      [1, () => ({ _tag: "Deregister", worker: any() })],
      [
        9,
        () => ({
          _tag: "Pass",
          millis: weighted([[6, () => whole(1, 5000)], [4, () => among([10_001, 30_001])], [0.7, () => hour], [
            0.3,
            () => day
          ]]),
          beats: chance(0.8)
        })
      ],
      [5, () => ({ _tag: "Promote", queues: some([0, 1], 0.7) })],
      [5, () => ({ _tag: "Recover", together: chance(0.2) })],
      [4, () => ({ _tag: "Cancel", filter: filter() })],
      [3, () => ({ _tag: "Resend", filter: filter() })],
      [2, () => ({ _tag: "Pause", queue: whole(0, 1), paused: chance(0.4) })],
      [leaning.limited ? 3 : 0.5, limit],
      [3, () => ({ _tag: "Look", task: any() })],
      [1, () => ({ _tag: "List", filter: filter(), states: any(), limit: whole(1, 5) })],
      [1, () => ({ _tag: "Await", task: any() })]
    ])

  const limit = (): Step => ({ _tag: "Limit", queue: whole(0, 1), limits: limits() })

  return (shortest: number, longest: number): ReadonlyArray<Step> => [
    start(),
    send(),
    leaning.limited ? limit() : step(),
    ...Array.from({ length: whole(shortest, longest) - 3 }, step)
  ]
}

/** The steps of a sequence. */
export const generate = (
  seed: string,
  [shortest, longest]: readonly [shortest: number, longest: number]
): Effect.Effect<ReadonlyArray<Step>> =>
  Random.withSeed(Effect.map(Random.Random, (random) => make(random)(shortest, longest)), seed)
