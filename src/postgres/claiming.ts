/** Claiming tasks. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type { BrokerError, ClaimedTask, Claims, Hold, Want } from "../Broker.ts"
import { type Database, floats, integer, integers, type Row, text, texts, uuid } from "./Database.ts"
import { type Lane, LowWater } from "./lowWater.ts"

/** What a claim selects. A row without an id says something about a queue: what (`name`), a key, or a number. */
export const columns = "id, queue, priority, fence, name, payload, attempt, losses, due_at, waited, version, " +
  "concurrency_key, timeout, expires_in"

const claimStatement = (schema: string) => `
select ${columns}
from ${schema}.horsies_claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`

const claimLimitedStatement = (schema: string, nowait: boolean) => `
select ${columns}
from ${schema}.horsies_claim_limited($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, ${nowait})`

/** The wait before a second look whose first try has failed, in milliseconds. */
const secondTry = 100

interface Claimed extends ClaimedTask {
  readonly dueAt: number
}

const claimedTask = (row: Row): Claimed => ({
  id: row[0] as string,
  queue: row[1] as string,
  priority: row[2] as number,
  fence: row[3] as number,
  name: row[4] as string,
  payload: (row[5] ?? unreadable) as string,
  attempt: row[6] as number,
  losses: row[7] as number,
  dueAt: row[8] as number,
  waited: row[9] as number,
  version: row[10] as number,
  concurrencyKey: (row[11] || undefined) as string | undefined,
  timeout: (row[12] ?? undefined) as number | undefined,
  expiresIn: (row[13] ?? undefined) as number | undefined
})

/** In place of a payload that is too large to be read: no JSON, so that its task ends FAILED. */
export const unreadable = "(the payload is too large to be read)"

/** Rows of a claim have a fence; rows of what was recorded, and remarks, have none. */
export const isClaimed = (row: Row) => row[3] !== null
const isRemark = (row: Row) => row[0] === null

/** Rows come back in no order. Tasks that were lost before go first: they were claimed for slots and are to start at once. */
const byUrgency = (a: Claimed, b: Claimed) =>
  Number(b.losses > 0) - Number(a.losses > 0) || a.priority - b.priority || a.dueAt - b.dueAt ||
  (a.id < b.id ? -1 : a.id > b.id ? 1 : 0)

/**
 * Puts tasks of queues with keys in the order in which they are to start: one of each key, from the key after the one
 * that had its turn last, then the next of each. A key that gave many must not run them all before the others.
 */
const inTurns = (tasks: ReadonlyArray<Claimed>, last: (queue: string) => string): ReadonlyArray<Claimed> => {
  const rounds = new Map<string, number>()
  const placed = tasks.map((task) => {
    const key = task.concurrencyKey ?? ""
    const lane = `${task.queue}\u0000${key}`
    const round = task.losses > 0 ? -1 : rounds.get(lane) ?? 0
    if (round >= 0) rounds.set(lane, round + 1)
    return { task, key, round, around: key <= last(task.queue) }
  })
  placed.sort((a, b) =>
    a.round - b.round || (a.round < 0 ? 0 : Number(a.around) - Number(b.around) || (a.key < b.key ? -1 : 1))
  )
  return placed.map(({ task }) => task)
}

type Execute = (parameters: ReadonlyArray<unknown>) => Effect.Effect<ReadonlyArray<Row>, BrokerError>

/** Runs a claim together with what else its statement does: from queues without limits, or from one that has some. */
export interface Fused {
  readonly open: Execute
  readonly limited: Execute
}

interface Place {
  readonly queue: string
  readonly key: string
}

/** What a task counts against. */
interface Counted extends Place {
  /** Of its claim: it may have been claimed again by the statement that has recorded the end of the one before. */
  readonly fence: number
}

const placeKey = ({ key, queue }: Place) => `${queue}\u0000${key}`

interface Collected {
  readonly tasks: Array<ClaimedTask>
  readonly again: Map<string, number>
  readonly full: Set<string>
  /** Queues and keys in which a claim with limits has looked at all that there is. */
  readonly ended: Set<string>
  /** Whether a statement has succeeded. */
  asked: boolean
}

export const make = (database: Database) => {
  const claimSql = claimStatement(database.schema)
  const claimLimitedSql = claimLimitedStatement(database.schema, false)
  const claimLimitedNowaitSql = claimLimitedStatement(database.schema, true)
  const lowWater = new LowWater()
  /** Queues that were found to have limits: they are claimed one by one. */
  const limited = new Set<string>()
  /** The key of each queue that had its turn last. */
  const turns = new Map<string, string>()
  /** Tasks that count against a limit: when they end, others may start. */
  const counted = new Map<string, Counted>()

  const laneParameters = (lanes: ReadonlyArray<Lane>) => [
    texts(lanes.map((lane) => lane.name)),
    integers(lanes.map((lane) => lane.version)),
    texts(lanes.map((lane) => lane.key)),
    integers(lanes.map((lane) => lane.fromPriority)),
    floats(lanes.map((lane) => lane.fromDueAt)),
    integers(lanes.map((lane) => lane.toPriority))
  ]

  const parameters = (wants: ReadonlyArray<Want>, lanes: ReadonlyArray<Lane>) => [
    texts(wants.map((want) => want.queue)),
    integers(wants.map((want) => want.slots)),
    integers(wants.map((want) => want.ahead)),
    texts(wants.map((want) => turns.get(want.queue) ?? "")),
    integers(lanes.map((lane) => lane.want + 1)),
    ...laneParameters(lanes)
  ]

  /** Takes tasks and remarks out of the rows of a claim. */
  const collect = (rows: ReadonlyArray<Row>, into: Collected): ReadonlyArray<Claimed> => {
    into.asked = true
    const last = new Map(turns)
    const tasks: Array<Claimed> = []
    for (const row of rows) {
      if (isClaimed(row)) {
        tasks.push(claimedTask(row))
      } else if (isRemark(row)) {
        const queue = row[1] as string
        switch (row[4]) {
          case "limited":
            limited.add(queue)
            break
          case "unlimited":
            limited.delete(queue)
            break
          case "turn":
            turns.set(queue, row[5] as string)
            break
          case "again":
            into.again.set(queue, row[8] as number)
            break
          case "full":
            into.full.add(queue)
            break
          case "end":
            into.ended.add(placeKey({ queue, key: row[5] as string }))
            lowWater.drop(queue, row[5] as string)
        }
      }
    }
    tasks.sort(byUrgency)
    const ordered = tasks.some((task) => task.concurrencyKey !== undefined)
      ? inTurns(tasks, (queue) => last.get(queue) ?? "")
      : tasks
    for (const task of ordered) into.tasks.push(task)
    return ordered
  }

  const claimLimited = Effect.fnUntraced(function*(want: Want, into: Collected, execute: Execute) {
    const { queue, slots } = want
    const { forgotten, lanes } = lowWater.lanes([want], (yield* Clock.Clock).currentTimeMillisUnsafe())
    const rows = yield* execute([
      text(queue),
      integer(slots),
      text(turns.get(queue) ?? ""),
      ...laneParameters(lanes)
    ])
    const tasks = collect(rows, into)
    for (const { concurrencyKey: key = "", fence, id } of tasks) counted.set(id, { queue, key, fence })
    // A claim that was left with room by all limits has seen the end, and needs no marks.
    if (tasks.length >= slots || into.full.has(queue) || into.again.has(queue)) {
      const learned = into.ended.size === 0
        ? tasks
        : tasks.filter(({ concurrencyKey: key = "" }) => !into.ended.has(placeKey({ queue, key })))
      lowWater.learn(learned, forgotten)
    }
  })

  /** Claims from queues without limits; once more without marks where the marks may have hidden something. */
  const claimOpen: (
    worker: string,
    wants: ReadonlyArray<Want>,
    execute: Execute,
    into: Collected
  ) => Effect.Effect<void, BrokerError> = Effect.fnUntraced(function*(worker, wants, execute, into) {
    const now = (yield* Clock.Clock).currentTimeMillisUnsafe()
    const { forgotten, lanes, marked } = lowWater.lanes(wants, now)
    const rows = yield* execute(parameters(wants, lanes))
    const tasks = collect(rows, into)
    const counts = new Map<string, number>()
    for (const task of tasks) counts.set(task.queue, (counts.get(task.queue) ?? 0) + 1)
    // What found less than it wanted has seen the end, unless it says that there is more.
    const short = wants.filter(({ ahead, queue, slots }) =>
      (counts.get(queue) ?? 0) < slots + ahead && !into.again.has(queue)
    )
    for (const { queue } of short) lowWater.drop(queue)
    const learned = short.length === 0
      ? tasks
      : tasks.filter((task) => short.every(({ queue }) => queue !== task.queue))
    lowWater.learn(learned, forgotten)
    const rest = short.flatMap((want) => {
      if (!marked.has(want.queue) || limited.has(want.queue)) return []
      const count = counts.get(want.queue) ?? 0
      lowWater.forget(want.queue)
      const slots = Math.max(0, want.slots - count)
      return [{ ...want, slots, ahead: want.slots + want.ahead - count - slots }]
    })
    if (rest.length > 0) yield* keeping(claimOpen(worker, rest, running(claimSql, worker), into), rest, into)
  })

  const running = (sql: string, worker: string): Execute => (parameters) =>
    database.run(sql, [uuid(worker), ...parameters])

  /** What has been claimed or recorded by then must not be forgotten because a further look failed. */
  const keeping = (look: Effect.Effect<unknown, BrokerError>, wants: ReadonlyArray<Want>, into: Collected) =>
    Effect.catch(look, (error) => {
      if (!into.asked) return Effect.fail(error)
      for (const { queue } of wants) into.again.set(queue, secondTry)
      return Effect.void
    })

  return {
    lowWater,
    /**
     * Claims what is wanted. The first statement may do something else as well, see `Fused`: it is the one for the queues
     * without limits, if there are any. What else it does is then not kept waiting by somebody who is claiming from a queue
     * with limits.
     */
    claimWith: Effect.fnUntraced(function*(worker: string, wants: ReadonlyArray<Want>, fused?: Fused) {
      const open = running(claimSql, worker)
      const limitedApart = running(fused === undefined ? claimLimitedSql : claimLimitedNowaitSql, worker)
      const into: Collected = { tasks: [], again: new Map(), full: new Set(), ended: new Set(), asked: false }
      const without = wants.filter(({ queue }) => !limited.has(queue))
      if (without.length > 0) yield* claimOpen(worker, without, fused?.open ?? open, into)
      // What has limits has nothing ahead.
      for (const want of wants.filter(({ queue, slots }) => limited.has(queue) && slots > 0)) {
        if (!into.asked) yield* claimLimited(want, into, fused?.limited ?? limitedApart)
        else yield* keeping(claimLimited(want, into, limitedApart), [want], into)
        // Its limits were taken away.
        if (!limited.has(want.queue)) yield* keeping(claimOpen(worker, [want], open, into), [want], into)
      }
      return into as Claims
    }),
    /**
     * The queues with limits of tasks that have ended or are handed back: others may start. Not where what was claimed since
     * has taken all of their places, those of each key too.
     */
    freed: (ended: ReadonlyArray<Hold>, claimed: ReadonlyArray<Hold> = []): ReadonlySet<string> => {
      const queues = new Set<string>()
      if (counted.size === 0) return queues
      const taken = new Map<string, number>()
      for (const { id } of claimed) {
        const place = counted.get(id)
        if (place !== undefined) taken.set(placeKey(place), (taken.get(placeKey(place)) ?? 0) + 1)
      }
      for (const { fence, id } of ended) {
        const place = counted.get(id)
        if (place === undefined) continue
        const at = placeKey(place)
        const left = taken.get(at) ?? 0
        if (left > 0) taken.set(at, left - 1)
        // Otherwise it has taken its own place again.
        if (place.fence !== fence) continue
        counted.delete(id)
        if (left === 0) queues.add(place.queue)
      }
      return queues
    }
  }
}

export type Claiming = ReturnType<typeof make>
