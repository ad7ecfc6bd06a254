/** The task: a file in, its checksum out. */
import { Clock, Duration, Effect, Layer, Schedule, Schema } from "effect"
import { Task } from "effect-horsies"
import { randomUUID } from "node:crypto"
import * as FileName from "./FileName.ts"
import * as FileReader from "./FileReader.ts"
import { Stop } from "./Stop.ts"
import { isTransient } from "./SystemError.ts"

/** The file could not be read. */
export class FileError extends Schema.TaggedError<FileError>()("FileError", {
  /** `EACCES` and such. */
  code: Schema.String,
  message: Schema.String,
  attempt: Schema.Int
}) {}

export class Checksum extends Task.make("Checksum", {
  payload: { file: FileName.FileName },
  success: Schema.Struct({
    sha256: Schema.String,
    bytes: Schema.Int,
    lines: Schema.Int,
    attempt: Schema.Int,
    /** Milliseconds from when it was due until its handler started, and from then until that was done. */
    waited: Schema.Finite,
    took: Schema.Finite
  }),
  error: FileError,
  // A queue of its own for every run: where several runs share a database, or a killed one has left something behind, each
  // works off its own files only.
  queue: `checksums-${randomUUID()}`,
  retry: { times: 5, schedule: Schedule.exponential("50 millis"), while: isTransient }
}) {}

/** The handler. */
export const ChecksumLive = Layer.unwrap(Effect.gen(function*() {
  const clock = yield* Clock.Clock
  const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
  const stop = yield* Stop
  const read = FileReader.make(() => stop.isOpen())

  return Checksum.toLayer(Effect.fnUntraced(function*({ file }) {
    const { attempt, waited } = yield* Task.CurrentTask
    const startedAt = now()
    const contents = yield* Effect.mapError(
      read(file),
      ({ code, message }) => new FileError({ code, message, attempt })
    )
    return { ...contents, attempt, waited: Duration.toMillis(waited), took: now() - startedAt }
  }))
}))
