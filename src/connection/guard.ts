/** The driver's connection as the SQL client uses it: with deadlines, prompt interruption, and the echo. */
import type * as PgConnection from "@effect/sql-pg/PgConnection"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type { Connection } from "effect/sql/SqlConnection"
import type { SqlError } from "effect/sql/SqlError"
import * as Stream from "effect/Stream"
import { type Deadlines, monotonic, StatementDeadline } from "./Deadlines.ts"
import type { OwnedConnection } from "./open.ts"

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

export const guard = (
  owned: OwnedConnection,
  connection: PgConnection.PgConnection,
  options: Options
): Connection => {
  /**
   * The statement runs in a fiber of its own: interrupting it makes the driver cancel and drain, which takes seconds on
   * a dead link; the deadline that is set first keeps that short.
   */
  const run = <A>(sql: string, effect: Effect.Effect<A, SqlError>): Effect.Effect<A, SqlError> =>
    Effect.withFiber((fiber) => {
      const deadline = Context.get(fiber.context, StatementDeadline) ??
        (options.statementTimeout === undefined ? undefined : Duration.sum(options.statementTimeout, afterTheServer))
      return Effect.callback<A, SqlError>((resume) => {
        const statement = options.deadlines.begin(owned, deadline)
        const running = Effect.runForkWith(fiber.context)(effect)
        running.addObserver((exit) => {
          options.deadlines.end(statement)
          if (exit._tag === "Failure") {
            const failure = exit.cause.reasons.find((reason) => reason._tag === "Fail")
            if (failure !== undefined) options.onFailure(failure.error)
          }
          resume(options.echo ? Effect.andThen(echo(sql, monotonic() - statement.startedAt, exit._tag), exit) : exit)
        })
        return Effect.suspend(() => {
          options.deadlines.hurry(statement)
          return Fiber.interrupt(running)
        })
      })
    })

  const rows = (sql: string, params: ReadonlyArray<unknown>, prepare: boolean) =>
    run(sql, Effect.map(connection.query(sql, params, prepare), (result) => result.rows))

  return {
    execute: (sql, params, transform) =>
      transform === undefined ? rows(sql, params, true) : Effect.map(rows(sql, params, true), transform),
    executeRaw: (sql, params) => run(sql, connection.query(sql, params)),
    executeStream: (sql, params, transform) =>
      transform === undefined
        ? connection.stream(sql, params)
        : Stream.mapArray(connection.stream(sql, params), (some) => transform(some) as typeof some),
    executeValues: (sql, params) => run(sql, connection.queryValues(sql, params)),
    executeValuesUnprepared: (sql, params) => run(sql, connection.queryValues(sql, params, false)),
    executeUnprepared: (sql, params, transform) =>
      transform === undefined ? rows(sql, params, false) : Effect.map(rows(sql, params, false), transform)
  }
}

const echo = (sql: string, millis: number, outcome: "Success" | "Failure") =>
  Effect.annotateLogs(Effect.logInfo("statement"), {
    sql: sql.trim().replaceAll(/\s+/g, " "),
    duration: Duration.format(Duration.millis(Math.round(millis * 100) / 100)),
    outcome
  })
