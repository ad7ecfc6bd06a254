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
  "ENETDOWN",
  "ENETRESET",
  "ENOTCONN",
  "EADDRNOTAVAIL",
  "ENOTFOUND",
  "EAI_AGAIN",
  "ENOENT",
  // The connection was ended on this side, a moment before it was written to.
  "ERR_STREAM_DESTROYED",
  "ERR_STREAM_WRITE_AFTER_END",
  "ERR_SOCKET_CLOSED"
])

/** What is short of room: connections of the pool, and what the system has for sockets. */
const shortages = new Set(["POOL_TIMEOUT", "EMFILE", "ENFILE", "ENOBUFS"])

/** What a pooler refuses for good; anything else that it says itself will pass. PgBouncer has one code for all of it. */
const refusedByPooler = /startup parameter|authentication|password|does not exist|no such|not allowed in|SSL|TLS/i

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

/** The SQLSTATE that the server gave, if the failure came from the server: EPIPE looks like one. */
export const sqlStateOf = (error: SqlError): string | undefined =>
  Predicate.hasProperty(error.reason.cause, "severity") ? codeOf(error.reason.cause) : undefined

const reasonOf = (error: SqlError): BrokerErrorReason => {
  const code = codeOf(error.reason.cause)
  const sqlState = sqlStateOf(error)
  const fields = {
    message: messageOf(error),
    cause: error,
    ...(sqlState === undefined ? {} : { sqlState })
  }
  if (sqlState === undefined) {
    if (code !== undefined && shortages.has(code)) return new Overloaded(fields)
    const lost = code === undefined
      ? error.reason._tag === "ConnectionError" && !/does not support TLS|COPY|max ?message ?size/i.test(fields.message)
      : socketFailures.has(code)
    return lost ? new Unavailable(fields) : new Refused(fields)
  }
  if (conflicts.has(sqlState)) return new Conflict(fields)
  if (sqlState === "08P01") {
    // A server's own errors say where in its code they come from.
    if (Predicate.hasProperty(error.reason.cause, "routine") || refusedByPooler.test(fields.message)) {
      return new Refused(fields)
    }
    return /no more connections/i.test(fields.message) ? new Overloaded(fields) : new Unavailable(fields)
  }
  if (outages.has(sqlState) || sqlState.startsWith("08")) return new Unavailable(fields)
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
