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
import type { OwnedConnection } from "./open.ts"

/** The longest time for each statement of an effect, from when it has its connection. Default: what the settings say. */
export const StatementDeadline = Context.Reference<Duration.Duration | undefined>(
  "effect-horsies/connection/StatementDeadline",
  { defaultValue: () => undefined }
)

/** How long an interrupted statement may take to be cancelled. */
const cancelGrace = 250

/** How often the keeper looks, in milliseconds: a deadline is kept with a tenth to spare, and not more finely than that. */
const tick = 50

/** The real clock, whatever a test has put in its place. */
export const realClock = Clock.Clock.defaultValue()

/** Milliseconds that never go back. */
export const monotonic = (): number => Number(realClock.monotonicTimeNanosUnsafe()) / 1e6

/** A statement under way. */
export interface Underway {
  readonly connection: OwnedConnection
  readonly startedAt: number
  /** By `monotonic`. */
  deadlineAt: number
  /** When the link was last found alive, or the statement began, and what had been read by then. */
  provenAt: number
  bytesRead: number
  /** Whether an answer is awaited: a stream whose consumer is busy with what it has waits for nothing. */
  waiting: boolean
  probing: boolean
}

export interface Deadlines {
  readonly begin: (connection: OwnedConnection, deadline: Duration.Duration | undefined) => Underway
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
 * whose other end is not at work on it, or cannot be asked, and from which still nothing comes, is dead. It is ended
 * within `bound`.
 */
export const make = Effect.fnUntraced(function*(options: {
  readonly patience: Duration.Duration
  readonly bound: Duration.Duration
  readonly isWorking: (connection: OwnedConnection) => Effect.Effect<boolean, unknown>
}): Effect.fn.Return<Deadlines, never, Scope.Scope> {
  const underway = new Set<Underway>()
  /** Open while anything is under way: an idle pool costs nothing. */
  const busy = yield* Latch.make()
  const patience = Duration.toMillis(options.patience)
  /** One half of what is left is for asking, the other for an answer that is on its way. */
  const half = Duration.millis((Duration.toMillis(options.bound) - patience) / 2)
  const context = yield* Effect.context<never>()
  const fork = Effect.runForkWith(Context.add(context, Clock.Clock, realClock))

  const prove = (statement: Underway) => {
    statement.provenAt = monotonic()
    statement.bytesRead = statement.connection.bytesRead()
  }
  const isSilent = (statement: Underway) =>
    underway.has(statement) && statement.waiting && statement.connection.bytesRead() === statement.bytesRead

  const probe = (statement: Underway) =>
    options.isWorking(statement.connection).pipe(
      Effect.catchCause(() => Effect.succeed(false)),
      Effect.timeoutOrElse({ duration: half, orElse: () => Effect.succeed(false) }),
      Effect.tap((working) => working || !isSilent(statement) ? Effect.void : Effect.sleep(half)),
      Effect.tap((working) => Effect.sync(() => !working && isSilent(statement) && statement.connection.destroy())),
      Effect.ensuring(Effect.sync(() => {
        statement.probing = false
        prove(statement)
      }))
    )

  const look = (statement: Underway, now: number) => {
    if (!statement.waiting) return
    if (now >= statement.deadlineAt) {
      statement.connection.destroy()
    } else if (!statement.probing && now - statement.provenAt >= patience) {
      if (!isSilent(statement)) return prove(statement)
      statement.probing = true
      fork(probe(statement))
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
    begin: (connection, deadline) => {
      const now = monotonic()
      const statement: Underway = {
        connection,
        startedAt: now,
        deadlineAt: deadlineAfter(now, deadline),
        provenAt: now,
        bytesRead: connection.bytesRead(),
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
      prove(statement)
      statement.deadlineAt = deadlineAfter(statement.provenAt, deadline)
    },
    hurry: (statement) => {
      statement.waiting = true
      statement.deadlineAt = Math.min(statement.deadlineAt, monotonic() + cancelGrace)
    }
  }
})
