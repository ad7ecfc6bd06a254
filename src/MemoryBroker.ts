/**
 * The broker in memory: the same contract as over PostgreSQL, inside one process, for tests without a database.
 *
 * Time comes from Effect's `Clock`, so a test that moves `TestClock` moves due times, leases, rates and retention. What
 * PostgreSQL refuses is refused here too: a task that is already there, a payload that is no JSON. One thing is different:
 * there are no transactions. A `send` inside the transaction of a `SqlClient` could not be rolled back with it, so it fails
 * with a `BrokerError` whose reason is `Misconfigured` with the code `TRANSACTIONS_UNSUPPORTED`.
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
import * as Context from "effect/Context"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import { Broker, BrokerError, highestPriority, Misconfigured, noTransactions, TaskNotFound } from "./Broker.ts"
import { refused, refusedAttempts, refusedFilter, refusedLimits } from "./memory/checking.ts"
import * as Entry from "./memory/Entry.ts"
import { whyNotRunning } from "./memory/explaining.ts"
import { News } from "./memory/News.ts"
import { plan } from "./memory/sending.ts"
import { Store } from "./memory/Store.ts"
import { Waiting } from "./memory/Waiting.ts"
import { WakeUps } from "./memory/WakeUps.ts"

/** Seven days. */
const retention = 7 * 86_400_000

const defaultPage = 100

const notJoined = () =>
  new BrokerError({
    reason: new Misconfigured({
      field: "transaction",
      code: "TRANSACTIONS_UNSUPPORTED",
      message: "the broker in memory has no part in the transactions of a SqlClient; send outside of withTransaction"
    })
  })

/** Where a fiber finds the key of the transaction that it is in. */
const CurrentTransaction = Context.Service<never, Context.Key<never, unknown>>("effect/sql/CurrentTransactionService")

const isInTransaction = (context: Context.Context<never>): boolean => {
  const transaction = Context.getOrUndefined(context, CurrentTransaction)
  // What runs after the commit has the key still, but no transaction.
  return transaction !== undefined && Context.getOrUndefined(context, transaction) !== undefined
}

const make = (): Broker["Service"] => {
  const store = new Store(retention)
  const waiting = new Waiting()
  const wakeUps = new WakeUps()

  const tell = (now: number) => {
    const { ended, freed, waiting: entries, wakeUps: others } = store.news
    store.news = new News()
    waiting.ended(ended)
    wakeUps.waiting(entries, now)
    for (const queue of freed) {
      if (store.queues.get(queue)?.hasReady(now) !== true) continue
      wakeUps.tell({ _tag: "Sent", queue, priority: highestPriority, dueIn: 0 })
    }
    for (const wakeUp of others) wakeUps.tell(wakeUp)
  }

  /** One step of the store, at the time of the clock. */
  const step = <A>(run: (now: number) => A): Effect.Effect<A> =>
    Effect.map(Clock.currentTimeMillis, (now) => {
      const result = run(now)
      tell(now)
      return result
    })

  /** One step of the store, or the reason why there is none. Nothing may happen between the check and the step. */
  const tryStep = <A, E>(run: (now: number) => Result.Result<A, E>): Effect.Effect<A, E> =>
    Effect.flatMap(step(run), Effect.fromResult)

  /** One step of the store, unless there is a reason to refuse it. */
  const stepUnless = <A>(reason: () => string | undefined, run: (now: number) => A): Effect.Effect<A, BrokerError> =>
    tryStep((now) => {
      const message = reason()
      return message === undefined ? Result.succeed(run(now)) : refused(message)
    })

  return {
    retention: Effect.succeed(retention),
    send: (tasks) =>
      Effect.withFiber(({ context }) =>
        isInTransaction(context) ?
          Effect.fail(notJoined()) :
          tryStep((now) =>
            Result.map(plan(tasks, (id) => store.get(id), store.keys, now), (sent) => {
              store.send(tasks, sent, now)
              return sent
            })
          )
      ),
    outcome: (id) =>
      Effect.suspend(() => {
        const entry = store.get(id)
        if (entry === undefined) return Effect.fail(new TaskNotFound({ id: id.toLowerCase() }))
        return entry.ended === undefined ? waiting.until(entry.id) : Effect.succeed(entry.ended.outcome)
      }),
    find: (id) => Effect.sync(() => Option.map(Option.fromUndefinedOr(store.get(id)), Entry.record)),
    list: (filter, { before, limit = defaultPage, states }) =>
      stepUnless(
        () => refusedFilter(filter),
        (now) =>
          store.matching(filter, now)
            .filter((entry) =>
              (before === undefined || entry.id < before.toLowerCase()) &&
              (states === undefined || states.includes(Entry.stateOf(entry)))
            )
            .toSorted((a, b) => a.id < b.id ? 1 : -1)
            .slice(0, limit)
            .map(Entry.record)
      ),
    whyNotRunning: (id) => step((now) => whyNotRunning(store, id, now)),
    cancel: (filter) => stepUnless(() => refusedFilter(filter), (now) => store.cancel(filter, now)),
    resend: (filter) =>
      stepUnless(
        () => refusedFilter(filter),
        (now) => store.resend(filter, () => SecureRandom.uuidV7Unsafe(), now)
      ),
    queue: (queue) => Effect.sync(() => store.queues.get(queue)?.settings ?? { paused: false, limits: {} }),
    configureQueue: (queue, settings) =>
      stepUnless(
        () => refusedLimits(settings.limits ?? {}),
        (now) => store.configure(queue, settings, now)
      ),
    register: (worker) => step((now) => store.workers.register(worker, now)),
    heartbeat: (worker, _running, snapshot) =>
      step((now) => {
        const alive = store.workers.renew(worker, now)
        if (alive && snapshot !== undefined) store.workers.keep(worker, snapshot, now)
        return { alive, cancelling: alive ? store.cancelling(worker) : [] }
      }),
    workerStates: (worker) => step((now) => store.workers.states(worker, now)),
    deregister: (worker) => Effect.sync(() => store.workers.forget(worker)),
    claim: (worker, wants) => step((now) => store.claim(worker, wants, now)),
    finish: (worker, attempts, wants) =>
      stepUnless(
        () => refusedAttempts(attempts),
        (now) => ({
          accepted: store.finish(worker, attempts, now),
          claimed: store.claim(worker, wants, now)
        })
      ),
    transactional: Effect.succeed(false),
    transact: () => Effect.fail(noTransactions),
    holds: (worker) => Effect.sync(() => store.holds(worker)),
    release: (worker, holds) => step((now) => store.release(worker, holds, now)),
    promote: (queues) => step((now) => store.promote(queues, now)),
    recover: step((now) => store.recover(now)),
    sweep: step((now) => store.sweep(now)),
    wakeUps: wakeUps.subscribe
  }
}

/** The broker in memory. Ended tasks that say nothing else are kept for seven days. */
export const layer: Layer.Layer<Broker> = Layer.sync(Broker, make)
