/** The server that a run works against: an embedded one, or that of the user. */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { spawn } from "node:child_process"
import * as EmbeddedPostgres from "../EmbeddedPostgres.ts"
import * as PostgresUrl from "../PostgresUrl.ts"
import type { Address } from "./Proxy.ts"

/** A run cannot begin, or could not go on. */
export class VerifyError extends Schema.TaggedError<VerifyError>()("VerifyError", { message: Schema.String }) {}

/** Where a URL leads to, and the same URL through something else. */
export interface Way {
  readonly address: Address
  readonly through: (port: number) => string
}

export interface Server {
  readonly url: Redacted.Redacted
  /** What sessions use, and ordinary statements when there is no pooler. */
  readonly direct: Way
  readonly pooler: Way | undefined
  /** None where nobody may restart it. `down`: how long it stays away, where it can. */
  readonly restart: ((how: "fast" | "immediate", down: number) => Effect.Effect<void, VerifyError>) | undefined
  /** Whether it can stay away for a while. */
  readonly outages: boolean
}

/** Connections of all workers, their children and producers at once, with room for those that a fault left behind. */
const connections = 300

const wayOf = Effect.fnUntraced(function*(url: Redacted.Redacted, extra: Readonly<Record<string, string>> = {}) {
  const parsed = PostgresUrl.parse(url)
  if (Result.isFailure(parsed)) return yield* new VerifyError({ message: `the URL of the database: ${parsed.failure}` })
  const [{ host, port }, ...others] = parsed.success.hosts
  if (others.length > 0 || host.startsWith("/")) {
    return yield* new VerifyError({ message: "the URL of the database has to name one host, and no socket file" })
  }
  const way: Way = {
    address: { host, port },
    through: (port) => {
      const detour = new URL(Redacted.value(url))
      detour.hostname = "127.0.0.1"
      detour.port = String(port)
      for (const [name, value] of Object.entries(extra)) detour.searchParams.set(name, value)
      return detour.href
    }
  }
  return way
})

const embedded: Effect.Effect<Server, VerifyError, Scope.Scope> = Effect.gen(function*() {
  const failed = Effect.mapError((error: Error) => new VerifyError({ message: error.message }))
  const server = yield* failed(EmbeddedPostgres.make({ settings: { max_connections: connections } }))
  return {
    url: server.url,
    direct: yield* wayOf(server.url, { sslmode: "disable" }),
    pooler: undefined,
    outages: true,
    restart: (how, down) =>
      server.stop(how).pipe(
        Effect.andThen(Effect.sleep(down)),
        Effect.andThen(server.start),
        failed
      )
  }
})

/** How long a restart command may take. */
const restartLimit = "60 seconds"

/** Runs a command of the user. It finds the kind of restart in `$1`. */
export const runCommand = (
  command: string,
  how: string,
  limit: Duration.Input = restartLimit
): Effect.Effect<void, VerifyError> =>
  Effect.callback<void, VerifyError>((resume) => {
    const child = spawn("/bin/sh", ["-c", command, "restart", how], { stdio: ["ignore", "ignore", "inherit"] })
    const fail = (message: string) => resume(Effect.fail(new VerifyError({ message })))
    child.once("error", (error) => fail(`the restart command: ${error.message}`))
    child.once("exit", (code) =>
      code === 0 ? resume(Effect.void) : fail(`the restart command ended with exit code ${code}`))
    return Effect.sync(() =>
      child.kill("SIGKILL")
    )
  }).pipe(
    Effect.timeoutOrElse({
      duration: limit,
      orElse: () => Effect.fail(new VerifyError({ message: `the restart command took longer than ${limit}` }))
    })
  )

/** Starts the embedded server, or finds that of the user. */
export const make = Effect.fnUntraced(function*(options: {
  readonly databaseUrl: Redacted.Redacted | undefined
  readonly poolerUrl: Redacted.Redacted | undefined
  readonly restartCommand: string | undefined
}): Effect.fn.Return<Server, VerifyError, Scope.Scope> {
  const { databaseUrl, poolerUrl, restartCommand } = options
  if (databaseUrl === undefined) {
    if (poolerUrl !== undefined || restartCommand !== undefined) {
      return yield* new VerifyError({ message: "--pooler-url and --restart-command need --database-url" })
    }
    return yield* embedded
  }
  return {
    url: databaseUrl,
    direct: yield* wayOf(databaseUrl),
    pooler: poolerUrl === undefined ? undefined : yield* wayOf(poolerUrl),
    outages: false,
    restart: restartCommand === undefined ? undefined : (how) => runCommand(restartCommand, how)
  }
})
