/** The driver's connection as the SQL client uses it: with deadlines, prompt interruption, and the echo. */
import type * as PgConnection from "@effect/sql-pg/PgConnection"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import type { Connection } from "effect/sql/SqlConnection"
import type { SqlError } from "effect/sql/SqlError"
import * as Stream from "effect/Stream"
import { type Deadlines, monotonic, StatementDeadline, type Underway } from "./Deadlines.ts"
import { echo } from "./echo.ts"
import type { Member } from "./Pool.ts"

export interface Options {
  readonly deadlines: Deadlines
  /** The deadline of statements for which their effect sets none. */
  readonly statementTimeout: Duration.Duration | undefined
  readonly echo: boolean
  /** Told of every failure. */
  readonly onFailure: (error: SqlError) => void
}

/** The server ends a statement at its own limit; ours comes after it, for when its answer does not. */
const afterTheServer = Duration.seconds(1)

/** A rollback is quick, or the end of the connection does the same. */
const rollbackTime = Duration.seconds(1)

/** Statements that begin and end a transaction. */
const begins = /^\s*(?:begin|start\s+transaction)\b/i
const ends = /^\s*(?:commit|end|rollback|abort)\b(?!.*\b(?:to|chain)\b)/is

export const guard = (member: Member, connection: PgConnection.PgConnection, options: Options): Connection => {
  const begin = (sql: string, deadline: Duration.Duration | undefined) => {
    if (begins.test(sql)) member.inTransaction = true
    return options.deadlines.begin(member, sql, deadline)
  }
  const end = (sql: string, statement: Underway, exit: Exit.Exit<unknown, unknown>) => {
    options.deadlines.end(statement)
    if (exit._tag === "Success" && ends.test(sql)) member.inTransaction = false
  }
  const tell = (sql: string, statement: Underway, exit: Exit.Exit<unknown, unknown>) =>
    options.echo ? echo(sql, monotonic() - statement.startedAt, exit) : Effect.void
  const deadlineOf = (fiber: Fiber.Fiber<unknown, unknown>) =>
    Context.get(fiber.context, StatementDeadline) ??
      (options.statementTimeout === undefined ? undefined : Duration.sum(options.statementTimeout, afterTheServer))

  /**
   * The statement runs in a fiber of its own: interrupting it makes the driver cancel and drain, which takes seconds on
   * a dead link; the deadline that is set first keeps that short.
   */
  const run = <A>(sql: string, effect: Effect.Effect<A, SqlError>): Effect.Effect<A, SqlError> =>
    Effect.withFiber((fiber) =>
      Effect.callback<A, SqlError>((resume) => {
        const statement = begin(sql, sql === "ROLLBACK" ? rollbackTime : deadlineOf(fiber))
        const running = Effect.runForkWith(fiber.context)(effect)
        running.addObserver((exit) => {
          if (exit._tag === "Failure") {
            const failure = exit.cause.reasons.find((reason) => reason._tag === "Fail")
            if (failure !== undefined) options.onFailure(failure.error)
          }
          end(sql, statement, exit)
          resume(options.echo ? Effect.andThen(tell(sql, statement, exit), exit) : exit)
        })
        return Effect.suspend(() => {
          options.deadlines.hurry(statement)
          return Effect.flatMap(
            Effect.andThen(Fiber.interrupt(running), Fiber.await(running)),
            (exit) => tell(sql, statement, exit)
          )
        })
      })
    )

  const rows = (sql: string, params: ReadonlyArray<unknown>, prepare: boolean) =>
    run(sql, Effect.map(connection.query(sql, params, prepare), (result) => result.rows))

  /** The deadline holds for each piece of the answer, not for what the consumer does with it. */
  const stream = (sql: string, params: ReadonlyArray<unknown>) =>
    Stream.unwrap(Effect.withFiber((fiber) =>
      Effect.acquireRelease(
        Effect.sync(() => begin(sql, deadlineOf(fiber))),
        (statement, exit) => {
          end(sql, statement, exit)
          return tell(sql, statement, exit)
        }
      ).pipe(Effect.map((statement) =>
        Stream.transformPull(connection.stream(sql, params), (pull, scope) => {
          const more = Effect.suspend(() => {
            options.deadlines.resume(statement, deadlineOf(fiber))
            return Effect.ensuring(pull, Effect.sync(() => options.deadlines.pause(statement)))
          })
          // Before the driver drains what is left.
          return Effect.as(Scope.addFinalizer(scope, Effect.sync(() => options.deadlines.hurry(statement))), more)
        })
      ))
    ))

  return {
    execute: (sql, params, transform) =>
      transform === undefined ? rows(sql, params, true) : Effect.map(rows(sql, params, true), transform),
    executeRaw: (sql, params) => run(sql, connection.query(sql, params)),
    executeStream: (sql, params, transform) =>
      transform === undefined
        ? stream(sql, params)
        : Stream.mapArray(stream(sql, params), (some) => transform(some) as typeof some),
    executeValues: (sql, params) => run(sql, connection.queryValues(sql, params)),
    executeValuesUnprepared: (sql, params) => run(sql, connection.queryValues(sql, params, false)),
    executeUnprepared: (sql, params, transform) =>
      transform === undefined ? rows(sql, params, false) : Effect.map(rows(sql, params, false), transform)
  }
}
