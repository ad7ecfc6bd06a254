/**
 * Tells what a failed statement means for the caller. The driver's own `isRetryable` is not used: it calls a shutdown
 * of the server permanent and a refused certificate temporary.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import { isSqlError, type SqlError } from "effect/sql/SqlError"
import { BrokerError, type BrokerErrorReason, Conflict, Overloaded, Refused, Unavailable } from "../Broker.ts"

/** Another transaction was in the way, or a plan is out of date: the same transaction can succeed at once. */
const conflicts = new Set(["40001", "40P01", "55P03", "0A000", "26000"])

/** The connection or the server is going away or not there yet. Class 08 apart, which is told by its first digits. */
const outages = new Set(["57P01", "57P02", "57P03", "57P05", "25P03", "25006", "57014"])

const socketFailures = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "ECONNABORTED",
  "EPIPE",
  "ETIMEDOUT",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "EHOSTDOWN",
  "ENOTFOUND",
  "EAI_AGAIN",
  "ENOENT"
])

const codeOf = (cause: unknown): string | undefined =>
  Predicate.hasProperty(cause, "code") && typeof cause.code === "string" ? cause.code : undefined

/** A server's message may quote what it was sent; the driver's own messages never carry secrets. */
const messageOf = (error: SqlError): string => {
  const cause = error.reason.cause
  const text = Predicate.hasProperty(cause, "message") && typeof cause.message === "string" && cause.message !== ""
    ? cause.message
    : error.message
  return text.replaceAll("\n", " ")
}

/** The SQLSTATE that the server gave, if the failure came from the server. */
export const sqlStateOf = (error: SqlError): string | undefined => {
  const code = codeOf(error.reason.cause)
  return code !== undefined && /^[0-9A-Z]{5}$/.test(code) && !socketFailures.has(code) ? code : undefined
}

const reasonOf = (error: SqlError): BrokerErrorReason => {
  const code = codeOf(error.reason.cause)
  const sqlState = sqlStateOf(error)
  const fields = {
    message: messageOf(error),
    cause: error,
    ...(sqlState === undefined ? {} : { sqlState })
  }
  if (sqlState === undefined) {
    const lost = code === undefined
      ? error.reason._tag === "ConnectionError" && !/certificate|COPY|message size/i.test(fields.message)
      : socketFailures.has(code)
    return lost ? new Unavailable(fields) : new Refused(fields)
  }
  if (conflicts.has(sqlState)) return new Conflict(fields)
  if (outages.has(sqlState) || (sqlState.startsWith("08") && sqlState !== "08P01")) return new Unavailable(fields)
  if (sqlState.startsWith("53") || sqlState.startsWith("58")) return new Overloaded(fields)
  return new Refused(fields)
}

/** The broker's error for a failed statement. */
export const fromSqlError = (error: SqlError): BrokerError => new BrokerError({ reason: reasonOf(error) })

/** A connection that is lost inside a transaction arrives as a defect, because the rollback fails too: make it a failure again. */
export const typedTransaction = <A, E, R>(self: Effect.Effect<A, E | SqlError, R>): Effect.Effect<A, E | SqlError, R> =>
  Effect.catchCause(self, (cause) => {
    for (const reason of cause.reasons) {
      if (Cause.isDieReason(reason) && isSqlError(reason.defect)) {
        return Effect.fail(reason.defect)
      }
    }
    return Effect.failCause(cause)
  })

/** Turns every SQL failure of an effect into the broker's error. */
export const brokerFailure = <A, E, R>(
  self: Effect.Effect<A, E | SqlError, R>
): Effect.Effect<A, Exclude<E, SqlError> | BrokerError, R> =>
  Effect.mapError(
    typedTransaction(self),
    (error) => isSqlError(error) ? fromSqlError(error) : error as Exclude<E, SqlError>
  )
