/** Doing a step to the broker and to the model, and comparing the answers. */
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Effect from "effect/Effect"
import type { BrokerError, Definition, EndedAttempt, Filter, NewTask, Want } from "../../Broker.ts"
import { claimed } from "./claims.ts"
import { await_, check, list, look } from "./looking.ts"
import type { ModelWorker } from "./ModelTask.ts"
import { show } from "./rules.ts"
import type { Step } from "./Step.ts"
import type { World } from "./World.ts"

type Performed = Effect.Effect<void, BrokerError>

const send = Effect.fnUntraced(function*({ broker, model, trace }: World, tasks: ReadonlyArray<NewTask>) {
  const expected = model.send(tasks)
  model.sent.push(...tasks.filter(({ id }) => model.sent.every((other) => other.id !== id)))
  trace.push(`send ${tasks.map(({ id, ...task }) => `${model.alias(id)} ${show(task)}`).join(", ")}`)
  const result = yield* Effect.result(broker.send(tasks))
  const answer = result._tag === "Success"
    ? result.success
    : result.failure._tag === "IdTaken"
    ? { taken: result.failure.id }
    : result.failure.reason._tag === "Refused"
    ? "refused"
    : yield* Effect.fail(result.failure)
  model.expect(show(answer) === show(expected), "sends", () => `the answer is ${show(answer)}, not ${show(expected)}`)
})

export const start = Effect.fnUntraced(
  function*({ broker, model, trace }: World, lease: number, handles: ReadonlyArray<Definition>) {
    const id = SecureRandom.uuidV4Unsafe()
    const alias = `w${model.workers.length + 1}`
    trace.push(
      `start ${alias} with a lease of ${lease} ms for ${show(handles.map(({ name, version }) => [name, version]))}`
    )
    yield* broker.register({ id, lease, host: "host", pid: 1, handles })
    const worker: ModelWorker = { id, alias, lease, handles, beatAt: model.now, crashed: false, state: "alive" }
    model.workers.push(worker)
    return worker
  }
)

export const claim = Effect.fnUntraced(
  function*({ broker, model, trace }: World, worker: ModelWorker, wants: ReadonlyArray<Want>) {
    const claims = yield* broker.claim(worker.id, wants)
    trace.push(`${worker.alias} claims ${show(wants)}: ${claims.tasks.map(({ id }) => model.alias(id))}`)
    claimed(model, worker.id, wants, claims, { alone: true })
    return claims
  }
)

const claimTogether = Effect.fnUntraced(function*({ broker, model, trace }: World, wants: ReadonlyArray<Want>) {
  const answers = yield* Effect.forEach(
    model.workers,
    (worker) => Effect.map(broker.claim(worker.id, wants), (claims) => ({ claims, worker })),
    { concurrency: "unbounded" }
  )
  for (const { claims, worker } of answers) {
    trace.push(
      `${worker.alias} claims with all others ${show(wants)}: ${claims.tasks.map(({ id }) => model.alias(id))}`
    )
    claimed(model, worker.id, wants, claims, { alone: false })
  }
})

export const finish = Effect.fnUntraced(function*(
  { broker, model, trace }: World,
  worker: ModelWorker,
  attempts: ReadonlyArray<EndedAttempt>,
  wants: ReadonlyArray<Want>
) {
  const ends = attempts.map(({ id, ...attempt }) => `${model.alias(id)} ${show(attempt)}`)
  const expected = attempts.filter((attempt) => model.finish(worker.id, attempt)).map(({ id }) => id)
  const { accepted, claimed: claims } = yield* broker.finish(worker.id, attempts, wants)
  const taken = wants.length === 0
    ? ""
    : `, and claims ${show(wants)}: ${claims.tasks.map(({ id }) => model.alias(id))}`
  trace.push(`${worker.alias} finishes ${ends}${taken}`)
  model.expect(
    show([...accepted].sort()) === show(expected.toSorted()),
    "fences",
    () => `accepted ${[...accepted].map((id) => model.alias(id))}, not ${expected.map((id) => model.alias(id))}`
  )
  claimed(model, worker.id, wants, claims, { alone: true, fused: true })
})

const release = Effect.fnUntraced(
  function*({ broker, model, trace }: World, worker: ModelWorker, attempts: ReadonlyArray<EndedAttempt>) {
    trace.push(`${worker.alias} releases ${attempts.map(({ fence, id }) => `${model.alias(id)} (fence ${fence})`)}`)
    for (const hold of attempts) {
      const task = model.standing(worker.id, hold)
      if (task !== undefined) model.wait(task)
    }
    yield* broker.release(worker.id, attempts)
  }
)

const heartbeat = Effect.fnUntraced(function*({ broker, model, trace }: World, worker: ModelWorker) {
  const holds = model.claimed.filter((task) => task.worker === worker.id)
  const beat = yield* broker.heartbeat(worker.id, holds)
  trace.push(`${worker.alias} beats`)
  const alive = worker.state === "alive"
  if (alive) worker.beatAt = model.now
  model.expect(beat.alive === alive, "liveness", () => `${worker.alias} is ${worker.state}; heard ${show(beat)}`)
  const expected = alive ? holds.filter(({ cancelling }) => cancelling).map(({ id }) => id).sort() : []
  model.expect(
    show([...beat.cancelling].sort()) === show(expected),
    "cancellations",
    () => `${worker.alias} was told to cancel ${beat.cancelling.map((id) => model.alias(id))}`
  )
})

/** Time passes. Who has crashed beats no more. */
export const pass = Effect.fnUntraced(function*(world: World, millis: number, beats: boolean) {
  const { harness, model, trace } = world
  trace.push(`${millis} ms pass`)
  yield* harness.advance(millis)
  model.now = yield* harness.now
  if (!beats) return
  for (const worker of model.workers) {
    if (!worker.crashed && worker.state === "alive") yield* heartbeat(world, worker)
  }
})

export const promote = Effect.fnUntraced(function*({ broker, model, trace }: World, queues: ReadonlyArray<string>) {
  trace.push(`promote ${queues}`)
  const next = yield* broker.promote(queues)
  const waiting = [...model.tasks.values()].filter(({ queue, state }) => state === "PENDING" && queues.includes(queue))
  let expected = Number.POSITIVE_INFINITY
  for (const task of waiting) {
    const { dueAt, goodUntil = Number.POSITIVE_INFINITY } = task
    if (goodUntil < model.now) {
      model.end(task, { _tag: "Expired" })
      continue
    }
    if (dueAt <= model.now) task.ready = true
    else expected = Math.min(expected, dueAt)
    // At its very time the one broker may think that it is over, and the other that it is not.
    if (goodUntil > model.now) expected = Math.min(expected, goodUntil)
  }
  const edge = waiting.some(({ goodUntil }) => goodUntil === model.now)
  const wait = expected - model.now
  // Brokers may let workers that wait for the same moment come one after another.
  const fits = next === undefined ? wait === Number.POSITIVE_INFINITY : next >= wait - 0.01 && next <= wait + 4.01
  model.expect(
    fits || (edge && next !== undefined && next <= 4.01),
    "time",
    () => `the next is in ${next} ms, not ${wait}`
  )
})

export const recover = Effect.fnUntraced(function*({ broker, model, trace }: World, together: boolean) {
  trace.push(together ? "recover three times at once" : "recover")
  // With a sweep, as workers do: nothing that is still needed may go.
  const step = Effect.tap(broker.recover, () => broker.sweep)
  const answers = yield* Effect.forEach(together ? [1, 2, 3] : [1], () => step, { concurrency: "unbounded" })
  const sum = { workers: 0, released: 0, failed: 0 }
  for (const { failed, released, workers } of answers) {
    sum.workers += workers
    sum.released += released
    sum.failed += failed
  }
  const expected = { workers: 0, released: 0, failed: 0 }
  for (const worker of model.workers) {
    if (worker.state !== "alive" || worker.beatAt + worker.lease >= model.now) continue
    worker.state = "dead"
    expected.workers += 1
  }
  for (const task of model.claimed) {
    if (model.isAlive(task.worker!)) continue
    const became = model.lose(task)
    if (became !== "cancelled") expected[became] += 1
  }
  const isAll = sum.workers === expected.workers &&
    sum.released + sum.failed === expected.released + expected.failed
  const rule = isAll ? "losses" : "liveness"
  model.expect(show(sum) === show(expected), rule, () => `recovered ${show(sum)}, not ${show(expected)}`)
})

const cancel = Effect.fnUntraced(function*({ broker, model, trace }: World, filter: Filter) {
  const tasks = model.matching(filter).filter(({ endedAt }) => endedAt === undefined)
  const expected = { cancelled: [] as Array<string>, requested: [] as Array<string> }
  for (const task of tasks) {
    if (task.state === "CLAIMED") {
      task.cancelling = true
      expected.requested.push(task.id)
    } else {
      model.end(task, { _tag: "Cancelled" })
      expected.cancelled.push(task.id)
    }
  }
  const { cancelled, requested } = yield* broker.cancel(filter)
  trace.push(
    `cancel ${show(filter)}: ${cancelled.map((id) => model.alias(id))}; ${requested.map((id) => model.alias(id))}`
  )
  const answer = { cancelled: cancelled.toSorted(), requested: requested.toSorted() }
  model.expect(
    show(answer) === show({ cancelled: expected.cancelled.sort(), requested: expected.requested.sort() }),
    "cancellations",
    () => `the answer is ${show(answer)}, not ${show(expected)}`
  )
})

const resend = Effect.fnUntraced(function*({ broker, model, trace }: World, filter: Filter) {
  const failed = model.matching(filter).filter(({ state, successor }) => state === "FAILED" && successor === undefined)
  const answer = yield* broker.resend(filter)
  trace.push(`resend ${show(filter)}: ${answer.map(({ origin }) => model.alias(origin))}`)
  const origins = answer.map(({ origin }) => origin)
  model.expect(
    show(origins.toSorted()) === show(failed.map(({ id }) => id).sort()),
    "resends",
    () => `sent ${origins.map((id) => model.alias(id))} again, not ${failed.map(({ alias }) => alias)}`
  )
  for (const { id, origin } of answer) {
    const task = model.tasks.get(origin)
    if (task !== undefined) model.resend(task, id)
  }
})

const configure = Effect.fnUntraced(
  function*({ broker, model, trace }: World, queue: string, settings: Parameters<typeof broker.configureQueue>[1]) {
    trace.push(`configure ${queue} ${show(settings)}`)
    yield* broker.configureQueue(queue, settings)
    if (settings.limits !== undefined) model.limit(queue, settings.limits)
    const known = model.queue(queue)
    if (settings.paused !== undefined) known.settings = { ...known.settings, paused: settings.paused }
  }
)

const once = (world: World, step: Step): Performed => {
  const worker = "worker" in step
    ? step._tag === "Finish" || step._tag === "Release" ? world.someHolder(step.worker) : world.someWorker(step.worker)
    : undefined
  switch (step._tag) {
    case "Start":
      return Effect.asVoid(start(world, step.lease, world.definitions(step.names, step.version)))
    case "Send": {
      const tasks = step.drafts.map((draft, i) => world.task(draft, i))
      const repeat = Effect.suspend(() => send(world, tasks.map((task) => ({ ...task, repeated: true }))))
      return step.unclear ? Effect.andThen(send(world, tasks), repeat) : send(world, tasks)
    }
    case "Pass":
      return pass(world, step.millis, step.beats)
    case "Promote":
      return promote(world, step.queues.map((n) => world.queue(n)))
    case "Recover":
      return recover(world, step.together)
    case "Cancel":
      return cancel(world, world.filter(step.filter))
    case "Resend":
      return resend(world, world.filter(step.filter))
    case "Pause":
      return configure(world, world.queue(step.queue), { paused: step.paused })
    case "Limit":
      return configure(world, world.queue(step.queue), { limits: step.limits })
    case "Look":
      return look(world, world.someTask(step.task))
    case "List":
      return list(world, world.filter(step.filter), step.states, step.limit)
    case "Await":
      return await_(world, world.someTask(step.task))
  }
  if (worker === undefined) return Effect.void
  switch (step._tag) {
    case "Claim": {
      const wants = world.wants(step.wants)
      return step.together ? claimTogether(world, wants) : Effect.asVoid(claim(world, worker, wants))
    }
    case "Finish": {
      const attempts = world.attempts(worker.id, step.picks)
      const again = step.unclear ? finish(world, worker, attempts, []) : Effect.void
      return Effect.andThen(finish(world, worker, attempts, world.wants(step.wants)), again)
    }
    case "Release": {
      const attempts = world.attempts(worker.id, step.picks)
      const again = step.unclear ? release(world, worker, attempts) : Effect.void
      return Effect.andThen(release(world, worker, attempts), again)
    }
    case "Heartbeat":
      return heartbeat(world, worker)
    case "Crash":
      worker.crashed = true
      world.trace.push(`${worker.alias} crashes`)
      return Effect.void
    case "Deregister":
      world.trace.push(`deregister ${worker.alias}`)
      worker.state = "unknown"
      return world.broker.deregister(worker.id)
  }
}

/** Steps that do nothing to a broker, or only ask it. */
const harmless: ReadonlySet<Step["_tag"]> = new Set(["Crash", "Look", "List", "Await"])

/** Does a step, and looks at all tasks afterwards. */
export const perform = (world: World, step: Step): Performed =>
  Effect.andThen(Effect.suspend(() => once(world, step)), harmless.has(step._tag) ? Effect.void : check(world))
