/**
 * Asks a server whether it is still at work on a statement from which nothing has come for long: over a connection that
 * a pool of this process has to spare, so that there are never more than the pools may have.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { isSqlError, type SqlError } from "effect/sql/SqlError"
import { monotonic } from "./clock.ts"
import type { Underway } from "./Deadlines.ts"
import { sqlStateOf } from "./failure.ts"
import { ask, startOfServer } from "./open.ts"
import type { ConnectionPool, Member } from "./Pool.ts"
import type { Siblings } from "./Siblings.ts"

/** Without a state it is not for us to know. */
const processWorks = `select ${startOfServer}, coalesce(
  (select coalesce(state not like 'idle%', true) from pg_catalog.pg_stat_activity where pid = $1), false
)`

/** Milliseconds by which a question may come later than it was timed. */
const late = 1000

/** Long statements are shown as far as there is room for them. */
const sightings = `
select pid || ' ' || extract(epoch from query_start)
from pg_catalog.pg_stat_activity
where state = 'active' and pid <> pg_backend_pid()
  and query_start >= clock_timestamp() - $2::float8 * interval '1 millisecond'
  and (
    query = $1
    or query <> '' and starts_with($1, query)
      and octet_length($1) >= pg_size_bytes(current_setting('track_activity_query_size'))
  )
  and ($3::text is null or pid || ' ' || extract(epoch from query_start) = $3)
order by query_start
limit 1`

/** What somebody says of a statement; nothing when it is not for him to know. */
type Testimony = (witness: Member, statement: Underway) => Effect.Effect<boolean | undefined, SqlError>

const ofProcess = (limit: Duration.Duration): Testimony => (witness, { connection: { backend } }) =>
  Effect.map(ask(witness, limit, processWorks, [backend.pid]), ([row]) => {
    const [server, works] = row as [number, boolean]
    if (server === backend.server) return works
    // One that has started since took the place of the one that worked for us.
    return server > backend.at ? false : undefined
  })

/**
 * Behind a transaction pool nobody knows which process works for us. One that has been running the same statement for no
 * longer than ours is taken for it, and from then on no other will do.
 */
const ofStatement = (limit: Duration.Duration): Testimony => (witness, statement) => {
  const elapsed = monotonic() - statement.startedAt + late
  return Effect.map(
    ask(witness, limit, sightings, [statement.sql, elapsed, statement.sighting ?? null]),
    ([row]) => {
      if (row === undefined) return false
      statement.sighting = row[0] as string
      return true
    }
  )
}

/** Asks over what a pool can spare, until somebody knows. */
const askPool = (pool: ConnectionPool, testify: Testimony, statement: Underway) =>
  Effect.scoped(Effect.gen(function*(): Effect.fn.Return<boolean | undefined, SqlError, Scope.Scope> {
    let ignorant: Member | undefined
    while (true) {
      const witness = yield* pool.spare(statement.connection.host)
      if (witness === undefined) {
        // It makes room for a connection to the server that knows.
        if (ignorant !== undefined) ignorant.leaving = true
        return undefined
      }
      const testimony = yield* Effect.onError(testify(witness, statement), () =>
        Effect.sync(() => {
          witness.leaving = true
        }))
      if (testimony !== undefined) return testimony
      ignorant = witness
    }
  }))

export interface Options {
  readonly siblings: Siblings["Service"]
  /** The pool of the statements. */
  readonly pool: ConnectionPool
  readonly transactionPool: boolean
  /** The time for one question. */
  readonly limit: Duration.Duration
}

/**
 * Whether a server works on a statement. `false` when it does not, or when no server can be reached; `undefined` when
 * there is nobody to ask at present.
 */
export const make = ({ limit, pool, siblings, transactionPool }: Options) => {
  const testify = transactionPool ? ofStatement(limit) : ofProcess(limit)

  const question = Effect.fnUntraced(function*(statement: Underway) {
    const others = [...siblings.pools].filter((other) => other !== pool)
    let unreachable = false
    // A pooler may have the question wait for the very statement that it is about.
    for (const each of transactionPool ? [...others, pool] : [pool, ...others]) {
      const answer = yield* Effect.result(askPool(each, testify, statement))
      if (answer._tag === "Success") {
        if (answer.success === undefined) continue
        siblings.answeredAt = monotonic()
        return answer.success
      }
      // A server that answers, if only to refuse another connection, is there.
      if (!isSqlError(answer.failure) || sqlStateOf(answer.failure) === undefined) unreachable = true
    }
    return unreachable ? false : undefined
  })

  return (statement: Underway): Effect.Effect<boolean | undefined> =>
    Effect.suspend(() => {
      // Where so little can be proven, a deadline that somebody has set is what counts.
      if (transactionPool && Number.isFinite(statement.deadlineAt)) return Effect.succeed(true)
      const since = monotonic()
      let asked = false
      const answered = siblings.asking.withPermit(Effect.suspend(() => {
        asked = true
        return Effect.timeoutOrElse(question(statement), { duration: limit, orElse: () => Effect.succeed(false) })
      }))
      // Whoever waits for others, none of whom got an answer, would get none either.
      const waited = Effect.flatMap(Effect.sleep(limit), () =>
        asked ? Effect.never : Effect.succeed(siblings.answeredAt < since ? false : undefined))
      return Effect.raceFirst(answered, waited)
    })
}
