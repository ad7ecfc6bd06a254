/**
 * Ends statements that take longer than they may by destroying their connection. One keeper looks after all connections
 * of a pool; it lives on the real clock, because sockets do.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import type * as Scope from "effect/Scope"
import { monotonic, realClock } from "./clock.ts"
import type { OwnedConnection } from "./open.ts"

export { monotonic, realClock } from "./clock.ts"

/** The longest time for each statement of an effect, from when it has its connection. Default: what the settings say. */
export const StatementDeadline = Context.Reference<Duration.Duration | undefined>(
  "effect-horsies/connection/StatementDeadline",
  { defaultValue: () => undefined }
)

/** How long an interrupted statement may take to be cancelled. */
const cancelGrace = 250

/** How often the keeper looks, in milliseconds: a deadline is kept with a tenth to spare, and not more finely than that. */
const tick = 50

/** A statement under way. */
export interface Underway {
  readonly connection: OwnedConnection
  readonly sql: string
  readonly startedAt: number
  /** By `monotonic`. */
  deadlineAt: number
  /** When the link was last found alive, or the statement began, and what had been read by then. */
  provenAt: number
  bytesRead: number
  /** Before then it is no use to ask about it. */
  askAt: number
  /** What the server was found to be working on for it. */
  sighting: string | undefined
  /** Whether an answer is awaited: a stream whose consumer is busy with what it has waits for nothing. */
  waiting: boolean
  probing: boolean
}

export interface Deadlines {
  /** How many statements are under way. */
  readonly count: () => number
  readonly begin: (connection: OwnedConnection, sql: string, deadline: Duration.Duration | undefined) => Underway
  readonly end: (statement: Underway) => void
  /** Some of the answer is here, and more is not wanted yet. */
  readonly pause: (statement: Underway) => void
  /** More of the answer is wanted, within a deadline of its own. */
  readonly resume: (statement: Underway, deadline: Duration.Duration | undefined) => void
  /** The statement is not wanted any more. */
  readonly hurry: (statement: Underway) => void
}

/**
 * Makes the keeper of a pool. `isWorking` is asked about a statement for which nothing has come within `patience`: a link
 * whose other end is not at work on it, or cannot be reached, and from which still nothing comes, is dead. It is ended
 * within `bound`. Where there is nobody to ask (`undefined`), the statement goes on and is asked about again; without a
 * deadline of its own it may be made to end with the bound, too.
 */
export const make = Effect.fnUntraced(function*(options: {
  readonly patience: Duration.Duration
  readonly bound: Duration.Duration
  readonly isWorking: (statement: Underway) => Effect.Effect<boolean | undefined>
  /** Whether a statement without a deadline ends with the bound when there is nobody to ask. */
  readonly unprovenEnds: boolean
}): Effect.fn.Return<Deadlines, never, Scope.Scope> {
  const underway = new Set<Underway>()
  /** Open while anything is under way: an idle pool costs nothing. */
  const busy = yield* Latch.make()
  const patience = Duration.toMillis(options.patience)
  const bound = Duration.toMillis(options.bound)
  /** One half of what is left is for asking, the other for an answer that is on its way. */
  const half = (bound - patience) / 2
  const context = yield* Effect.context<never>()
  const fork = Effect.runForkWith(Context.add(context, Clock.Clock, realClock))

  const prove = (statement: Underway) => {
    statement.provenAt = monotonic()
    statement.bytesRead = statement.connection.bytesRead()
    statement.askAt = statement.provenAt + patience
  }
  const isSilent = (statement: Underway) =>
    underway.has(statement) && statement.waiting && statement.connection.bytesRead() === statement.bytesRead

  const probe = Effect.fnUntraced(function*(statement: Underway) {
    const working = yield* Effect.catchCause(options.isWorking(statement), () => Effect.succeed(false))
    const left = statement.provenAt + bound - monotonic()
    const goesOn = !options.unprovenEnds || Number.isFinite(statement.deadlineAt)
    if (working === undefined && (goesOn || left > half)) {
      statement.askAt = monotonic() + patience / 10
      return
    }
    if (working !== true && isSilent(statement)) {
      yield* Effect.sleep(Duration.millis(Math.max(0, Math.min(half, left))))
      if (isSilent(statement)) statement.connection.destroy()
    }
    prove(statement)
  })

  const look = (statement: Underway, now: number) => {
    if (!statement.waiting) return
    if (now >= statement.deadlineAt) {
      statement.connection.destroy()
    } else if (!statement.probing && now >= statement.askAt) {
      if (!isSilent(statement)) {
        statement.sighting = undefined
        return prove(statement)
      }
      statement.probing = true
      fork(Effect.ensuring(probe(statement), Effect.sync(() => (statement.probing = false))))
    }
  }

  yield* busy.await.pipe(
    Effect.andThen(Effect.sync(() => {
      const now = monotonic()
      for (const statement of underway) look(statement, now)
      if (underway.size === 0) busy.closeUnsafe()
    })),
    Effect.andThen(Effect.sleep(Duration.millis(tick))),
    Effect.forever,
    Effect.provideService(Clock.Clock, realClock),
    Effect.forkScoped
  )

  const deadlineAfter = (now: number, deadline: Duration.Duration | undefined) =>
    deadline === undefined ? Number.POSITIVE_INFINITY : now + Duration.toMillis(deadline)

  return {
    count: () => underway.size,
    begin: (connection, sql, deadline) => {
      const now = monotonic()
      const statement: Underway = {
        connection,
        sql,
        startedAt: now,
        deadlineAt: deadlineAfter(now, deadline),
        provenAt: now,
        bytesRead: connection.bytesRead(),
        askAt: now + patience,
        sighting: undefined,
        waiting: true,
        probing: false
      }
      underway.add(statement)
      busy.openUnsafe()
      return statement
    },
    end: (statement) => {
      underway.delete(statement)
    },
    pause: (statement) => {
      statement.waiting = false
    },
    resume: (statement, deadline) => {
      statement.waiting = true
      statement.sighting = undefined
      prove(statement)
      statement.deadlineAt = deadlineAfter(statement.provenAt, deadline)
    },
    hurry: (statement) => {
      statement.waiting = true
      statement.deadlineAt = Math.min(statement.deadlineAt, monotonic() + cancelGrace)
    }
  }
})
