/** Brokers that break one rule each, so that it can be shown that the properties notice. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type { AttemptEnd, EndedAttempt, Hold, NewTask, Rate, TaskRecord, When } from "../../src/Broker.ts"
import { Broker } from "../../src/Broker.ts"
import type { Rule } from "../../src/testing/properties.ts"
import { layer } from "./memory.ts"

type Service = Broker["Service"]

export interface Mutant {
  /** The rule that it breaks. */
  readonly rule: Rule
  readonly mutate: (broker: Service) => Partial<Service>
}

export const mutated = ({ mutate }: Mutant) =>
  Layer.effect(Broker, Effect.map(Broker, (broker) => ({ ...broker, ...mutate(broker) }))).pipe(
    Layer.provideMerge(layer)
  )

const sooner = (when: When): When => "at" in when ? when : { after: when.after / 2 }

const twiceAsFast = (rate: Rate): Rate => ({ ...rate, per: rate.per / 2 })

const sending = (change: (task: NewTask) => NewTask) => (broker: Service): Partial<Service> => ({
  send: (tasks) => broker.send(tasks.map(change))
})

const ending = (change: (end: AttemptEnd) => AttemptEnd) => (broker: Service): Partial<Service> => ({
  finish: (worker, attempts, wants) =>
    broker.finish(worker, attempts.map((attempt) => ({ ...attempt, end: change(attempt.end) })), wants)
})

/** Does something for whoever holds a task, whatever hold is named. */
const asHolder = Effect.fnUntraced(function*<A extends Hold, B>(
  broker: Service,
  holds: ReadonlyArray<A>,
  act: (worker: string, hold: A) => B
) {
  const acts: Array<B> = []
  for (const hold of holds) {
    const record = yield* broker.find(hold.id)
    if (Option.isNone(record) || record.value.state !== "CLAIMED") continue
    acts.push(act(record.value.worker!, { ...hold, fence: record.value.fence }))
  }
  return acts
})

export const mutants: Readonly<Record<string, Mutant>> = {
  "finish ignores the fence and the worker": {
    rule: "fences",
    mutate: (broker) => ({
      finish: Effect.fnUntraced(function*(worker, attempts, wants) {
        const acts = yield* asHolder(
          broker,
          attempts,
          (holder, attempt: EndedAttempt) => broker.finish(holder, [attempt], [])
        )
        const finished = yield* Effect.all(acts)
        const { claimed } = yield* broker.finish(worker, [], wants)
        return { accepted: new Set(finished.flatMap(({ accepted }) => Array.from(accepted))), claimed }
      })
    })
  },
  "release ignores the fence and the worker": {
    rule: "outcomes",
    mutate: (broker) => ({
      release: (_, holds) =>
        Effect.asVoid(Effect.flatMap(
          asHolder(broker, holds, (holder, hold) => broker.release(holder, [hold])),
          (acts) => Effect.all(acts)
        ))
    })
  },
  "finish says that every hold stood": {
    rule: "fences",
    mutate: (broker) => ({
      finish: (worker, attempts, wants) =>
        Effect.map(broker.finish(worker, attempts, wants), (finished) => ({
          ...finished,
          accepted: new Set(attempts.map(({ id }) => id))
        }))
    })
  },
  "a task is given to two workers": {
    rule: "fences",
    mutate: (broker) => {
      let before: Effect.Success<ReturnType<Service["claim"]>>["tasks"] = []
      return {
        claim: (worker, wants) =>
          Effect.map(broker.claim(worker, wants), (claims) => {
            const others = before.filter(({ queue }) => wants.some((want) => want.queue === queue && want.slots > 0))
            const tasks = claims.tasks.length > 0 ? claims.tasks : others.slice(0, 1)
            before = claims.tasks
            return { ...claims, tasks }
          })
      }
    }
  },
  "claims ignore the limits": {
    rule: "limits",
    mutate: (broker) => ({
      claim: Effect.fnUntraced(function*(worker, wants) {
        const settings = yield* Effect.forEach(wants, ({ queue }) => broker.queue(queue))
        for (const { queue } of wants) yield* broker.configureQueue(queue, { limits: {} })
        const claims = yield* broker.claim(
          worker,
          wants.map((want, i) => Object.keys(settings[i]!.limits).length === 0 ? want : { ...want, ahead: 0 })
        )
        for (const [i, { queue }] of wants.entries()) yield* broker.configureQueue(queue, settings[i]!)
        return claims
      })
    })
  },
  "rates are twice as fast": {
    rule: "limits",
    mutate: (broker) => ({
      configureQueue: (queue, settings) => {
        const { limits } = settings
        if (limits === undefined) return broker.configureQueue(queue, settings)
        const { perKey, rate } = limits
        return broker.configureQueue(queue, {
          ...settings,
          limits: {
            ...limits,
            rate: rate && twiceAsFast(rate),
            perKey: perKey && { ...perKey, rate: perKey.rate && twiceAsFast(perKey.rate) }
          }
        })
      }
    })
  },
  "a paused queue gives tasks": {
    rule: "paused",
    mutate: (broker) => ({
      claim: Effect.fnUntraced(function*(worker, wants) {
        const settings = yield* Effect.forEach(wants, ({ queue }) => broker.queue(queue))
        for (const { queue } of wants) yield* broker.configureQueue(queue, { paused: false })
        const claims = yield* broker.claim(worker, wants)
        for (const [i, { queue }] of wants.entries()) yield* broker.configureQueue(queue, settings[i]!)
        return claims
      })
    })
  },
  "a worker is given newer versions than it knows": {
    rule: "handled",
    mutate: (broker) => ({
      claim: (worker, wants) =>
        broker.claim(
          worker,
          wants.map((want) => ({ ...want, handles: want.handles.map((handled) => ({ ...handled, version: 9 })) }))
        )
    })
  },
  "lost tasks are claimed ahead": {
    rule: "handled",
    mutate: (broker) => ({
      claim: (worker, wants) =>
        broker.claim(worker, wants.map((want) => ({ ...want, slots: want.slots + want.ahead, ahead: 0 })))
    })
  },
  "a ready task is held back": {
    rule: "ready",
    mutate: (broker) => ({
      claim: (worker, wants) =>
        broker.claim(worker, wants.map((want) => ({ ...want, slots: Math.max(0, want.slots - 1) })))
    })
  },
  "a claim comes in the wrong order": {
    rule: "order",
    mutate: (broker) => ({
      claim: (worker, wants) =>
        Effect.map(
          broker.claim(worker, wants),
          (claims) =>
            claims.tasks.some(({ losses }) => losses > 0) ? claims : { ...claims, tasks: claims.tasks.toReversed() }
        )
    })
  },
  "an interruption counts an attempt": {
    rule: "attempts",
    mutate: ending((end) =>
      end._tag === "Interrupted" ? { _tag: "Retry", failure: { kind: "Timeout", value: "1" }, delay: 0 } : end
    )
  },
  "a snooze is recorded": {
    rule: "attempts",
    mutate: ending((end) =>
      end._tag === "Snoozed" ? { _tag: "Retry", failure: { kind: "Timeout", value: "1" }, delay: end.delay } : end
    )
  },
  "what was released is recorded": {
    rule: "attempts",
    mutate: (broker) => ({
      release: (worker, holds) =>
        Effect.asVoid(broker.finish(
          worker,
          holds.map(({ fence, id }) => ({ id, fence, elapsed: 0, end: { _tag: "Interrupted", why: "Shutdown" } })),
          []
        ))
    })
  },
  "attempts have no record": {
    rule: "attempts",
    mutate: (broker) => ({
      list: (filter, page) =>
        Effect.map(
          broker.list(filter, page),
          (records) => records.map((record): TaskRecord => Object.assign({}, record, { history: [] }))
        )
    })
  },
  "a failure is a success": {
    rule: "outcomes",
    mutate: ending((end) => end._tag === "Failed" ? { _tag: "Completed", value: "1" } : end)
  },
  "who awaits is told something else": {
    rule: "outcomes",
    mutate: (broker) => ({ outcome: (id) => Effect.as(broker.outcome(id), { _tag: "Expired" }) })
  },
  "losses are not bounded": {
    rule: "losses",
    mutate: sending((task) => ({ ...task, maxLosses: 99 }))
  },
  "a delayed task is due too early": {
    rule: "time",
    mutate: sending((task) => ({ ...task, due: sooner(task.due) }))
  },
  "nothing expires": {
    rule: "time",
    mutate: sending((task) => ({ ...task, goodUntil: undefined }))
  },
  "promote forgets what comes next": {
    rule: "time",
    mutate: (broker) => ({ promote: (queues) => Effect.as(broker.promote(queues), undefined) })
  },
  "a lease passes too early": {
    rule: "liveness",
    mutate: (broker) => ({ register: (worker) => broker.register({ ...worker, lease: worker.lease / 2 }) })
  },
  "a dead worker is told that it is alive": {
    rule: "liveness",
    mutate: (broker) => ({
      heartbeat: (worker, running) =>
        Effect.map(broker.heartbeat(worker, running), (beat) => ({ ...beat, alive: true }))
    })
  },
  "a worker that is gone is given tasks": {
    rule: "liveness",
    mutate: (broker) => ({
      claim: (worker, wants) =>
        Effect.andThen(
          broker.register({ id: worker, lease: 30_000, host: "", pid: 1, handles: [] }),
          broker.claim(worker, wants)
        )
    })
  },
  "a key of idempotency means nothing": {
    rule: "sends",
    mutate: sending((task) => ({ ...task, idempotency: undefined }))
  },
  "a repeated send is not said to be one": {
    rule: "sends",
    mutate: (broker) => ({
      send: (tasks) => Effect.map(broker.send(tasks), (sent) => sent.map(({ id }) => ({ id, duplicate: false })))
    })
  },
  "a cancellation passes over what is claimed": {
    rule: "cancellations",
    mutate: (broker) => ({
      cancel: Effect.fnUntraced(function*(filter) {
        const waiting = yield* broker.list(filter, { states: ["PENDING"], limit: 1000 })
        return yield* broker.cancel({ ids: waiting.map(({ id }) => id) })
      })
    })
  },
  "a task is sent again and again": {
    rule: "resends",
    mutate: (broker) => ({
      resend: Effect.fnUntraced(function*(filter) {
        const first = yield* broker.resend(filter)
        return [...first, ...first]
      })
    })
  },
  "the last of a list is missing": {
    rule: "kept",
    mutate: (broker) => ({
      list: (filter, page) =>
        Effect.map(broker.list(filter, page), (records) => records.length > 5 ? records.slice(0, -1) : records)
    })
  },
  "a task is said to wait for nothing": {
    rule: "answers",
    mutate: () => ({ whyNotRunning: () => Effect.succeed({ _tag: "Nothing", ahead: 0 }) })
  }
}
