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
  /** When the link was last found alive, or the statement began. */
  provenAt: number
  probing: boolean
}

export interface Deadlines {
  readonly begin: (connection: OwnedConnection, deadline: Duration.Duration | undefined) => Underway
  readonly end: (statement: Underway) => void
  /** The statement is not wanted any more. */
  readonly hurry: (statement: Underway) => void
}

/**
 * Makes the keeper of a pool. `suspicious` is asked, once per `patience`, about a statement that has no deadline and
 * no answer: it destroys the connection if the link turns out to be dead.
 */
export const make = Effect.fnUntraced(function*(options: {
  readonly patience: Duration.Duration
  readonly suspicious: (statement: Underway) => Effect.Effect<void>
}): Effect.fn.Return<Deadlines, never, Scope.Scope> {
  const underway = new Set<Underway>()
  /** Open while anything is under way: an idle pool costs nothing. */
  const busy = yield* Latch.make()
  const patience = Duration.toMillis(options.patience)
  const context = yield* Effect.context<never>()
  const fork = Effect.runForkWith(Context.add(context, Clock.Clock, realClock))

  yield* busy.await.pipe(
    Effect.andThen(Effect.sync(() => {
      const now = monotonic()
      for (const statement of underway) {
        if (now >= statement.deadlineAt) {
          statement.connection.destroy()
        } else if (
          statement.deadlineAt === Number.POSITIVE_INFINITY && now - statement.provenAt >= patience &&
          !statement.probing
        ) {
          statement.probing = true
          fork(Effect.ensuring(
            options.suspicious(statement),
            Effect.sync(() => {
              statement.probing = false
              statement.provenAt = monotonic()
            })
          ))
        }
      }
      if (underway.size === 0) busy.closeUnsafe()
    })),
    Effect.andThen(Effect.sleep(Duration.millis(tick))),
    Effect.forever,
    Effect.provideService(Clock.Clock, realClock),
    Effect.forkScoped
  )

  return {
    begin: (connection, deadline) => {
      const now = monotonic()
      const statement: Underway = {
        connection,
        startedAt: now,
        deadlineAt: deadline === undefined ? Number.POSITIVE_INFINITY : now + Duration.toMillis(deadline),
        provenAt: now,
        probing: false
      }
      underway.add(statement)
      busy.openUnsafe()
      return statement
    },
    end: (statement) => {
      underway.delete(statement)
    },
    hurry: (statement) => {
      statement.deadlineAt = Math.min(statement.deadlineAt, monotonic() + cancelGrace)
    }
  }
})
