/** The job: a task for every file, and a tally of how they end. */
import { Clock, Effect, Fiber, Schedule, Stream } from "effect"
import { type Broker, Task } from "effect-horsies"
import { Checksum } from "./Checksum.ts"
import * as FileName from "./FileName.ts"
import { Stop } from "./Stop.ts"
import type { Tally } from "./Tally.ts"
import { type Found, walk } from "./walk.ts"

/** Files found ahead of the sends: mostly all of them, so that the progress bar knows where it will end. */
const ahead = 50_000

/** Tasks sent and not ended: enough for sends and awaits to share statements, few enough to need little memory. */
const underWay = 500

/** How long an interrupted run waits for what it has sent. */
const patience = "1 second"

/** The database may be away for a while. The tasks that it has wait for it as well, so there is no use in giving up. */
const outage = Schedule.min([Schedule.exponential("100 millis"), Schedule.spaced("2 seconds")])

const isOutage = (error: Task.PayloadError | Broker.BrokerError | Broker.IdTaken) =>
  error._tag === "BrokerError" && error.isRetryable

/**
 * A send that fails may be in the database all the same, when only the answer was lost. What is tried from then on has one
 * id, and is stored once; if the first try was stored after all, the file has two tasks, of which the first does no harm.
 */
const send = (file: FileName.FileName) =>
  Effect.catchIf(
    Checksum.send({ file }),
    isOutage,
    // Not around the first try: an id of one's own, and a schedule, take as long as a send.
    () =>
      Effect.flatMap(
        Task.makeId,
        (id) => Effect.retry(Checksum.send({ file }, { id }), { while: isOutage, schedule: outage })
      )
  )

/**
 * Fails only with the broker. Interrupted, it sends no more and lets what it has sent end, so that no task of it stays behind
 * in a database that outlives the run.
 */
export const run = Effect.fnUntraced(function*(folder: FileName.FileName, tally: Tally) {
  const clock = yield* Clock.Clock
  const stop = yield* Stop
  let startedAt: bigint | undefined

  const checksum = Effect.fnUntraced(function*(file: FileName.FileName) {
    const path = FileName.relative(folder, file)
    startedAt ??= clock.monotonicTimeNanosUnsafe()
    yield* send(file).pipe(
      Effect.flatMap((handle) => handle.await),
      Effect.map((success) => tally.complete(path, success)),
      Effect.catchIf(
        (error) => error._tag !== "BrokerError",
        (error) =>
          Effect.sync(() => {
            // What is not read any more because the run is to stop has not failed.
            if (!stop.isOpen()) tally.fail(path, error.message, error._tag === "FileError" ? error.attempt : 1)
          })
      )
    )
    tally.seconds = Number(clock.monotonicTimeNanosUnsafe() - startedAt) / 1e9
  })

  const take = (found: Found) =>
    found._tag === "File"
      ? checksum(found.path)
      : Effect.sync(() => tally.skip(FileName.relative(folder, found.path), found.error.message))

  const all = yield* walk(folder).pipe(
    Stream.tap((found) => Effect.sync(() => void (tally.files += found._tag === "File" ? 1 : 0))),
    Stream.onEnd(Effect.sync(() => void (tally.walked = true))),
    Stream.buffer({ capacity: ahead }),
    Stream.interruptWhen(stop.await),
    Stream.mapEffect(take, { concurrency: underWay, unordered: true }),
    Stream.runDrain,
    Effect.forkChild
  )
  yield* Effect.onInterrupt(
    Fiber.join(all),
    () => Effect.timeoutOption(Effect.andThen(stop.open, Fiber.await(all)), patience)
  )
})
