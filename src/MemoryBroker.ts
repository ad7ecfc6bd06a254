/**
 * The broker in memory: the same contract as over PostgreSQL, inside one process, for tests without a database.
 *
 * Time comes from Effect's `Clock`, so a test that moves `TestClock` moves due times and leases. What PostgreSQL refuses
 * is refused here too: a task that is already there, a payload that is no JSON. Two things are different. There are no
 * transactions, so a `send` is never part of one. And ended tasks are kept until the layer closes.
 *
 * Each build of the layer is a broker of its own. Use one value of the layer for everything that is to share a broker.
 *
 * @example
 * ```ts
 * import { MemoryBroker, Task, Worker } from "effect-horsies"
 * import { Effect, Layer, Schema } from "effect"
 *
 * class Greet extends Task.make("Greet", {
 *   payload: { name: Schema.String },
 *   success: Schema.String
 * }) {}
 *
 * const Workers = Greet.toLayer(({ name }) => Effect.succeed(`Hello, ${name}`)).pipe(
 *   Layer.provideMerge(Worker.layer()),
 *   Layer.provideMerge(MemoryBroker.layer)
 * )
 *
 * const program = Effect.gen(function*() {
 *   const handle = yield* Greet.send({ name: "Ada" })
 *   return yield* handle.await // "Hello, Ada"
 * }).pipe(Effect.provide(Workers))
 * ```
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { Broker, BrokerError, Refused, TaskNotFound } from "./Broker.ts"
import { refusedAttempts, refusedTasks } from "./memory/checking.ts"
import * as Entry from "./memory/Entry.ts"
import { Store } from "./memory/Store.ts"
import { Waiting } from "./memory/Waiting.ts"
import { WakeUps } from "./memory/WakeUps.ts"

/** One step of the store, at the time of the clock. */
const step = <A>(run: (now: number) => A): Effect.Effect<A> => Effect.map(Clock.currentTimeMillis, run)

/** One step of the store, unless there is a reason to refuse it. */
const stepUnless = <A>(reason: () => string | undefined, run: (now: number) => A): Effect.Effect<A, BrokerError> =>
  Effect.flatMap(Clock.currentTimeMillis, (now) => {
    // Both at once: nothing may happen between the check and the step.
    const message = reason()
    return message === undefined
      ? Effect.succeed(run(now))
      : Effect.fail(new BrokerError({ reason: new Refused({ message }) }))
  })

const make = (): Broker["Service"] => {
  const store = new Store()
  const waiting = new Waiting()
  const wakeUps = new WakeUps()

  return {
    send: (tasks) =>
      stepUnless(
        () => refusedTasks(store, tasks),
        (now) => wakeUps.waiting(store.send(tasks, now), now)
      ),
    outcome: (id) =>
      Effect.suspend(() => {
        const entry = store.get(id)
        if (entry === undefined) return Effect.fail(new TaskNotFound({ id }))
        return entry.ended === undefined ? waiting.until(id) : Effect.succeed(entry.ended.outcome)
      }),
    find: (id) => Effect.sync(() => Option.map(Option.fromUndefinedOr(store.get(id)), Entry.record)),
    register: (worker) => step((now) => store.workers.register(worker, now)),
    heartbeat: (worker) => step((now) => store.workers.renew(worker, now)),
    deregister: (worker) => Effect.sync(() => store.workers.forget(worker)),
    claim: (worker, wants) => step((now) => store.claim(worker, wants, now)),
    finish: (worker, attempts, wants) =>
      stepUnless(
        () => refusedAttempts(attempts),
        (now) => {
          const { ended, retried } = store.finish(worker, attempts, now)
          const claimed = store.claim(worker, wants, now)
          waiting.ended(ended)
          wakeUps.waiting(retried, now)
          return { accepted: new Set([...ended.map(([id]) => id), ...retried.map(({ id }) => id)]), claimed }
        }
      ),
    holds: (worker) => Effect.sync(() => store.holds(worker)),
    release: (worker, holds) =>
      step((now) => {
        if (holds.length === 0) return
        store.release(worker, holds, now)
        wakeUps.lookAgain()
      }),
    promote: (queues) => step((now) => store.promote(queues, now)),
    recover: step((now) => {
      const { ended, recovered } = store.recover(now)
      waiting.ended(ended)
      if (recovered.released > 0) wakeUps.lookAgain()
      return recovered
    }),
    wakeUps: wakeUps.subscribe
  }
}

/** The broker in memory. */
export const layer: Layer.Layer<Broker> = Layer.sync(Broker, make)
