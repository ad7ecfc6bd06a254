/** The log of statements: what was run, how long it took and how it ended, never with what parameters. */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import { monotonic } from "./clock.ts"

/** Logs a statement that has ended. */
export const echo = (sql: string, millis: number, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> =>
  Effect.annotateLogs(Effect.logInfo("statement"), {
    sql: sql.trim().replaceAll(/\s+/g, " "),
    duration: Duration.format(Duration.millis(Math.round(millis * 100) / 100)),
    outcome: exit._tag === "Success" ? "Success" : Cause.hasInterruptsOnly(exit.cause) ? "Interrupted" : "Failure"
  })

/** Logs a statement of the broker's own when it ends, where the settings ask for it. */
export const echoing = <A, E, R>(
  { echo: wanted }: { readonly echo: boolean },
  sql: string,
  statement: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  wanted
    ? Effect.suspend(() => {
      const startedAt = monotonic()
      return Effect.onExit(statement, (exit) => echo(sql, monotonic() - startedAt, exit))
    })
    : statement
