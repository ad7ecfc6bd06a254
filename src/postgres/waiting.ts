/**
 * Waiting for outcomes. A waiter registers, commits, then looks; who finishes a task reads who waits in a new statement
 * after its own commit, then notifies. One of the two sees the other whatever the order. What is lost on the way is made
 * good by one batched look per process and floor. How a task ends that a worker of the same process holds is known without
 * all that, so a waiter gives such a worker a moment to claim it.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as Stream from "effect/Stream"
import { type BrokerError, type FailureKind, type Hold, type Outcome, TaskNotFound } from "../Broker.ts"
import { monotonic, realClock } from "../connection/Deadlines.ts"
import type { SessionListener } from "../connection/SessionListener.ts"
import { type Database, float, isUuid, type Row, text, uuids } from "./Database.ts"

/** Time between looks for everything that is awaited: with pushed results, and without. */
const floor = Duration.seconds(5)
const pollFloor = Duration.millis(500)

/** Up to this many ended tasks, their waiters are looked up without asking first whether there are any. */
const fewIds = 20

/** How long a look waits for a claim in its own process, in milliseconds: twice as long as such a claim took of late. */
const shortestWindow = 3
const longestWindow = 100

/** Ids per look, and per NOTIFY (37 characters each, less than 8000 bytes). */
const mostIds = 1000
const mostNotified = 200

/** horsies_waiters_pkey */
const registerStatement = (schema: string) => `
insert into ${schema}.horsies_waiters (task, listener, since)
select task, $2, ${schema}.horsies_now() from unnest($1::uuid[]) task
on conflict (task, listener) do update set since = excluded.since
where horsies_waiters.since < excluded.since - interval '10 minutes'`

/** The look: one snapshot, in which a task is either live or ended. horsies_history_id, horsies_tasks_pkey */
const lookStatement = (schema: string) => `
select id, failure, result::text, true from ${schema}.horsies_history
where id = any ($1) and ended_at >= to_timestamp($2 / 1000)
union all
select id, failure, result::text, true from ${schema}.horsies_history_overflow where id = any ($1)
union all
select id, null, null, false from ${schema}.horsies_tasks where id = any ($1)`

/** Whether anybody waits at all: asked before many ids are looked up for nobody. */
const anybodyStatement = (schema: string) => `
select exists (select from ${schema}.horsies_waiters)`

/** Takes the waiters of ended tasks and notifies them; a statement of its own, after the commit. horsies_waiters_pkey */
const tellStatement = (schema: string) => `
with told as (
  delete from ${schema}.horsies_waiters where task = any ($1) returning task, listener
), numbered as (
  select task, listener, (row_number() over (partition by listener) - 1) / ${mostNotified} as part
  from told
  where listener <> $2
)
select pg_notify(listener, string_agg(task::text, ',')) from numbered group by listener, part`

const forgetStatement = (schema: string) => `
delete from ${schema}.horsies_waiters where task = any ($1) and listener = $2`

type Waiter = Deferred.Deferred<Outcome, BrokerError | TaskNotFound>

/** Those who wait for one task, and since when the first of them does, in milliseconds. */
interface Waiters {
  readonly since: number
  readonly all: Set<Waiter>
}

/** The time in a UUIDv7, in milliseconds, less a day for senders whose clock is ahead. */
export const earliestOf = (ids: Iterable<string>): number => {
  let earliest = Number.POSITIVE_INFINITY
  for (const id of ids) earliest = Math.min(earliest, Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16))
  return Math.max(0, earliest - 86_400_000)
}

/** As the history has it: no failure is success, and two words for ends that are none. */
export const outcomeOf = (failure: unknown, result: unknown): Outcome =>
  failure === null
    ? { _tag: "Completed", value: result as string }
    : failure === "Cancelled" || failure === "Expired"
    ? { _tag: failure }
    : { _tag: "Failed", failure: { kind: failure as FailureKind, value: result as string } }

export const make = Effect.fnUntraced(function*(
  database: Database,
  self: string,
  listener: SessionListener["Service"]
) {
  const channel = `horsies_done_${self.replaceAll("-", "")}`
  const waiting = new Map<string, Waiters>()
  /** Open while anybody waits, and a floor longer. */
  const somebody = yield* Latch.make()
  const looks = new Set<string>()
  const toLook = yield* Latch.make()
  const askFor = (ids: Iterable<string>) => {
    for (const id of ids) looks.add(id)
    toLook.openUnsafe()
  }
  /** What somebody has just begun to wait for, the oldest first. */
  const fresh = new Set<string>()
  const toLookSoon = yield* Latch.make()
  const ended = yield* Queue.unbounded<string>()
  const register = registerStatement(database.schema)
  const look = lookStatement(database.schema)
  const anybody = anybodyStatement(database.schema)
  const tell = tellStatement(database.schema)
  const forget = forgetStatement(database.schema)

  const answer = (id: string, exit: Effect.Effect<Outcome, BrokerError | TaskNotFound>) => {
    const waiters = waiting.get(id)
    if (waiters === undefined) return
    waiting.delete(id)
    for (const waiter of waiters.all) Deferred.doneUnsafe(waiter, exit)
  }

  /** Tasks that a worker of this process holds, with their fences: how they end is known here first. */
  const held = new Map<string, number>()
  /** Milliseconds that a look waits for them; `undefined` while no worker of this process has claimed anything. */
  let claimWindow: number | undefined
  const setWindow = (millis = shortestWindow) => {
    claimWindow = Math.min(longestWindow, Math.max(shortestWindow, millis))
  }

  const lookAt = Effect.fnUntraced(function*(ids: ReadonlyArray<string>) {
    if (listener.listens) yield* database.run(register, [uuids(ids), text(channel)])
    const rows = yield* database.run(look, [uuids(ids), float(earliestOf(ids))])
    const found = new Map(rows.map((row): [string, Row] => [row[0] as string, row]))
    const over: Array<string> = []
    for (const id of ids) {
      const row = found.get(id)
      if (row?.[3] === false) continue
      over.push(id)
      answer(id, row === undefined ? Effect.fail(new TaskNotFound({ id })) : Effect.succeed(outcomeOf(row[1], row[2])))
    }
    if (listener.listens && over.length > 0) yield* database.run(forget, [uuids(over), text(channel)])
  })

  const lookAtSome = (ids: ReadonlyArray<string>): Effect.Effect<void> =>
    Effect.catch(lookAt(ids), (error) => {
      // What cannot be had now is looked for again at the floor.
      if (error.isRetryable) {
        return Effect.annotateLogs(Effect.logDebug("look for results failed"), error.annotations)
      }
      // One of them may be the reason: the others must not suffer.
      return ids.length > 1
        ? Effect.forEach(ids, (id) => lookAtSome([id]), { discard: true })
        : Effect.sync(() => ids.forEach((id) => answer(id, Effect.fail(error))))
    })

  const lookAtAll = Effect.fnUntraced(function*(candidates: Iterable<string>, which: (id: string) => boolean) {
    const ids = [...new Set(candidates)].filter((id) => waiting.has(id) && which(id))
    for (let i = 0; i < ids.length; i += mostIds) yield* lookAtSome(ids.slice(i, i + mostIds))
  })

  yield* Effect.gen(function*() {
    yield* toLook.await
    toLook.closeUnsafe()
    const ids = [...looks]
    looks.clear()
    yield* lookAtAll(ids, (id) => !held.has(id))
  }).pipe(Effect.forever, Effect.forkScoped)

  /** What has been waited for this long. */
  const agedOf = (millis: number) => {
    const before = monotonic() - millis
    return [...fresh].filter((id) => (waiting.get(id)?.since ?? 0) <= before)
  }

  yield* Effect.gen(function*() {
    yield* toLookSoon.await
    const [oldest = ""] = fresh
    const window = claimWindow ?? 0
    // By the end of the window a worker of this process has mostly claimed what was just sent.
    const wait = (waiting.get(oldest)?.since ?? 0) + window - monotonic()
    if (wait > 0) yield* Effect.provideService(Effect.sleep(wait), Clock.Clock, realClock)
    // What others have claimed is not to wait for long.
    if (claimWindow !== undefined && agedOf(window).some((id) => waiting.has(id) && !held.has(id))) {
      setWindow(window / 2)
    }
    // Some before their time: not a look for each.
    const ids = agedOf(window / 2)
    for (const id of ids) fresh.delete(id)
    if (fresh.size === 0) toLookSoon.closeUnsafe()
    yield* lookAtAll(ids, (id) => !held.has(id))
  }).pipe(Effect.forever, Effect.forkScoped)

  yield* Effect.gen(function*() {
    const ids = yield* Queue.takeBetween(ended, 1, mostIds)
    const telling = Effect.gen(function*() {
      if (ids.length > fewIds) {
        const [row] = yield* database.run(anybody, [])
        if (row?.[0] === false) return
      }
      yield* database.run(tell, [uuids(ids), text(channel)])
    })
    yield* Effect.catch(telling, (error) => Effect.annotateLogs(Effect.logDebug("waiters not told"), error.annotations))
  }).pipe(Effect.forever, Effect.forkScoped)

  yield* Effect.gen(function*() {
    // While nobody waits there is nothing to look for.
    yield* somebody.await
    yield* Effect.sleep(Duration.times(listener.listens ? floor : pollFloor, 0.8 + 0.4 * (yield* Random.next)))
    if (waiting.size === 0) return somebody.closeUnsafe()
    yield* lookAtAll(waiting.keys(), () => true)
  }).pipe(Effect.forever, Effect.forkScoped)

  const events = yield* listener.subscribe(channel)
  yield* Stream.fromQueue(events).pipe(
    Stream.runForEach((event) =>
      Effect.sync(() => {
        askFor(event._tag === "LookAgain" ? waiting.keys() : event.payload.split(","))
      })
    ),
    Effect.forkScoped
  )

  return {
    outcome: (given: string): Effect.Effect<Outcome, BrokerError | TaskNotFound> =>
      Effect.suspend(() => {
        const id = given.toLowerCase()
        if (!isUuid(id)) return Effect.fail(new TaskNotFound({ id }))
        const waiter: Waiter = Deferred.makeUnsafe()
        const others = waiting.get(id)
        if (others === undefined) {
          waiting.set(id, { since: monotonic(), all: new Set([waiter]) })
          fresh.add(id)
          somebody.openUnsafe()
          toLookSoon.openUnsafe()
        } else {
          others.all.add(waiter)
        }
        return Effect.onInterrupt(Deferred.await(waiter), () =>
          Effect.sync(() => {
            const left = waiting.get(id)
            left?.all.delete(waiter)
            if (left?.all.size === 0) waiting.delete(id)
          }))
      }),
    /** Tasks that a worker of this process holds from now on. */
    claimed: (tasks: ReadonlyArray<Hold>) => {
      for (const { fence, id } of tasks) held.set(id, fence)
      const awaited = tasks.find(({ id }) => waiting.has(id))
      setWindow(awaited === undefined ? claimWindow : 2 * (monotonic() - waiting.get(awaited.id)!.since))
    },
    /** Tasks that it does not hold any more. */
    freed: (tasks: ReadonlyArray<Hold>) => {
      for (const { fence, id } of tasks) {
        // It may have been claimed again by the statement that has recorded the end of the claim before.
        if (held.get(id) !== fence) continue
        held.delete(id)
        if (waiting.has(id)) askFor([id])
      }
    },
    /** Tasks that have ended, after the commit; with the outcome, where it is known here. */
    ended: (outcomes: Iterable<readonly [id: string, outcome: Outcome | undefined]>) => {
      for (const [id, outcome] of outcomes) {
        if (outcome !== undefined) answer(id, Effect.succeed(outcome))
        // Telling leaves out this process, which has just been told.
        else {
          // Taken away from whoever held it.
          held.delete(id)
          if (waiting.has(id)) askFor([id])
        }
        Queue.offerUnsafe(ended, id)
      }
    }
  }
})
