/** The end of a sequence: nothing stands in the way any more, so every task has to end. */
import * as Effect from "effect/Effect"
import type { BrokerError } from "../../Broker.ts"
import { check, checkThoroughly, checkWaiters } from "./looking.ts"
import { claim, finish, pass, promote, recover, start } from "./performing.ts"
import type { World } from "./World.ts"

/** As often as a task can be looked for before it counts as lost. */
const mostRounds = 10

const names = [0, 1, 2]

const long = 86_400_000

const waiting = ({ model }: World) => [...model.tasks.values()].filter(({ endedAt }) => endedAt === undefined)

/** Every worker is gone, and nothing is paused or limited. */
const clear = Effect.fnUntraced(function*(world: World) {
  const { broker, model, queues, trace } = world
  for (const queue of queues) {
    trace.push(`resume ${queue} without limits`)
    yield* broker.configureQueue(queue, { paused: false, limits: {} })
    model.limit(queue, {})
    const known = model.queue(queue)
    known.settings = { ...known.settings, paused: false }
  }
  for (const worker of model.workers) {
    worker.state = "unknown"
    yield* broker.deregister(worker.id)
  }
  yield* recover(world, false)
  yield* check(world)
})

const drain = Effect.fnUntraced(function*(world: World) {
  const { broker, model, queues } = world
  const worker = yield* start(world, long, world.definitions(names, 2))
  const wants = queues.map((queue) => ({ queue, handles: worker.handles, slots: 1000, ahead: 0 }))
  for (let round = 0; round < mostRounds && waiting(world).length > 0; round++) {
    const last = Math.max(...waiting(world).map(({ dueAt }) => dueAt))
    if (last > model.now) yield* pass(world, Math.ceil(last - model.now), true)
    yield* promote(world, queues)
    yield* check(world)
    const { tasks } = yield* claim(world, worker, wants)
    const attempts = tasks.map((
      { fence, id }
    ) => ({ id, fence, elapsed: 1, end: { _tag: "Completed", value: "1" } } as const))
    yield* finish(world, worker, attempts, [])
    yield* check(world)
    if (model.violations.length > 0) return
  }
  const left = waiting(world)
  model.expect(left.length === 0, "kept", () => `never claimed: ${left.map(({ alias }) => alias)}`)
  worker.state = "unknown"
  yield* broker.deregister(worker.id)
})

export const draining = (world: World): ReadonlyArray<Effect.Effect<void, BrokerError>> => [
  checkThoroughly(world),
  clear(world),
  drain(world),
  checkThoroughly(world),
  checkWaiters(world)
]
