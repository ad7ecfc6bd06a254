/** The server process over a data directory: started until it accepts connections, stopped, started again. */
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as Semaphore from "effect/Semaphore"
import { randomInt } from "node:crypto"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import type { DataDirectory } from "./dataDirectory.ts"
import { startFailed } from "./failure.ts"
import type { Keeper } from "./keeper.ts"
import * as Programs from "./programs.ts"

/** How a server is told to stop. */
export type Mode = "fast" | "immediate"

const persuasions: Record<Mode, Programs.Persuasion> = {
  fast: [["SIGINT", 10_000], ["SIGQUIT", 5_000]],
  immediate: [["SIGQUIT", 5_000]]
}

/** How long a start may take, crash recovery included. */
const startTime = "60 seconds"

/**
 * Ports below the range from which systems take the local ports of outgoing connections. In that range a client that
 * tries to reconnect while the server is down can be given the server's own port, connect to itself and so keep the
 * server from coming back.
 */
const anyPort = () => randomInt(15_000, 32_000)

/** Attempts to find a free port; each costs a start that ends in 0.03 seconds. */
const portAttempts = 20

/** A server over a data directory, started, and stopped with its scope. */
export const make = Effect.fnUntraced(function*(options: {
  readonly keeper: Keeper
  readonly bin: string
  readonly data: DataDirectory
  readonly settings: ReadonlyArray<string>
}) {
  const { bin, data, keeper, settings } = options
  const oneAtATime = Semaphore.makeUnsafe(1)
  let current: Programs.Program | undefined

  const failedWith = (what: string, program: Programs.Program) =>
    startFailed(`PostgreSQL ${what}\n${program.log().replaceAll(Redacted.value(data.password), "<redacted>")}`)

  /** The state that the postmaster writes for pg_ctl. Unlike the log, no setting can take it away. */
  const isReady = (program: Programs.Program) =>
    Effect.promise(() => readFile(join(data.path, "postmaster.pid"), "utf8").catch(() => "")).pipe(
      Effect.map((text) => {
        const lines = text.split("\n")
        return Number(lines[0]) === program.pid && lines[7]?.trim() === "ready"
      })
    )

  const launch = (port: number) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function*() {
        const program = yield* Programs.spawn(keeper, join(bin, "postgres"), [
          `-D${data.path}`,
          ...settings,
          // Last, for the last one wins.
          `--port=${port}`,
          "--listen_addresses=127.0.0.1",
          "--unix_socket_directories=",
          "--log_destination=stderr",
          "--logging_collector=off"
        ])
        current = program
        yield* isReady(program).pipe(
          Effect.repeat({ until: (ready) => ready, schedule: Schedule.spaced("10 millis") }),
          Effect.raceFirst(
            Effect.flatMap(program.ended, (how) => Effect.fail(failedWith(`ended with ${how}`, program)))
          ),
          Effect.timeoutOrElse({
            duration: startTime,
            orElse: () => Effect.fail(failedWith(`was not ready after ${startTime}`, program))
          }),
          restore,
          Effect.onError(() => Programs.end(program, persuasions.fast))
        )
      })
    )

  const portIsTaken = () => current?.log().includes("Address already in use") === true

  yield* Effect.addFinalizer(() => current === undefined ? Effect.void : Programs.end(current, persuasions.fast))
  const port = yield* Effect.sync(anyPort).pipe(
    Effect.flatMap((port) => Effect.as(launch(port), port)),
    Effect.retry({ while: portIsTaken, times: portAttempts })
  )

  const start = Effect.suspend(() => current?.hasEnded() === false ? Effect.void : launch(port))
  const stop = (mode: Mode) =>
    Effect.suspend(() => current === undefined ? Effect.void : Programs.end(current, persuasions[mode]))
  return {
    port,
    start: oneAtATime.withPermit(start),
    stop: (mode: Mode) => oneAtATime.withPermit(stop(mode)),
    restart: (mode: Mode) => oneAtATime.withPermit(Effect.andThen(stop(mode), start))
  }
})
