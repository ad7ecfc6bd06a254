/** What can go wrong between asking for an embedded server and having one. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/** The npm package with PostgreSQL's binaries is not installed. The message says what to install. */
export class BinariesMissing extends Schema.TaggedError<BinariesMissing>()("BinariesMissing", {
  message: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {}

/** There is no way to run the server on this system, or as this user. */
export class PlatformUnsupported extends Schema.TaggedError<PlatformUnsupported>()("PlatformUnsupported", {
  message: Schema.String
}) {}

/** The server's files could not be made: a folder, a copy of the binaries, the data directory. */
export class SetupFailed extends Schema.TaggedError<SetupFailed>()("SetupFailed", {
  message: Schema.String,
  cause: Schema.optionalKey(Schema.Defect())
}) {}

/** The server ended, or said nothing for too long, before it accepted connections. */
export class StartFailed extends Schema.TaggedError<StartFailed>()("StartFailed", {
  message: Schema.String
}) {}

/** Why there is no embedded server. */
export type EmbeddedPostgresErrorReason = BinariesMissing | PlatformUnsupported | SetupFailed | StartFailed

/**
 * The one error of the embedded server. Its `reason` tells which step failed; the message carries the last lines that
 * PostgreSQL logged, and never the password.
 */
export class EmbeddedPostgresError extends Schema.TaggedError<EmbeddedPostgresError>()("EmbeddedPostgresError", {
  reason: Schema.Union([BinariesMissing, PlatformUnsupported, SetupFailed, StartFailed])
}) {
  override get message(): string {
    return `EmbeddedPostgres: ${this.reason.message}`
  }
}

export const binariesMissing = (message: string, cause?: unknown) =>
  new EmbeddedPostgresError({ reason: new BinariesMissing(cause === undefined ? { message } : { message, cause }) })

export const platformUnsupported = (message: string) =>
  new EmbeddedPostgresError({ reason: new PlatformUnsupported({ message }) })

export const setupFailed = (message: string, cause?: unknown) =>
  new EmbeddedPostgresError({ reason: new SetupFailed(cause === undefined ? { message } : { message, cause }) })

export const startFailed = (message: string) => new EmbeddedPostgresError({ reason: new StartFailed({ message }) })

/** One step on files: what fails is a `SetupFailed` that says which step it was. */
export const fileStep = <A>(step: string, run: () => Promise<A>): Effect.Effect<A, EmbeddedPostgresError> =>
  Effect.tryPromise({
    try: run,
    catch: (cause) => setupFailed(`${step}: ${cause instanceof Error ? cause.message : String(cause)}`, cause)
  })
