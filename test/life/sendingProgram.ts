/**
 * Sends a stream of tasks, and prints as JSON what that did to its heap. Arguments: the database's URL, how many tasks.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import { Noted } from "./tasks.ts"

setFlagsFromString("--expose-gc")
const collect = runInNewContext("gc") as () => void

/** Bytes of the heap that are in use after a collection. */
const used = Effect.sync(() => {
  collect()
  return process.memoryUsage().heapUsed
})

const count = Number(process.argv[3])

const main = Effect.gen(function*() {
  // What is loaded and compiled at the first send is no matter of their number.
  yield* Noted.sendMany([{ n: 0, millis: 0 }])
  const before = yield* used
  let most = before
  const startedAt = performance.now()
  const payloads = Stream.range(1, count).pipe(
    Stream.map((n) => ({ n, millis: 0 })),
    Stream.tap(({ n }) =>
      n % 50_000 === 0 ? Effect.map(used, (bytes) => void (most = Math.max(most, bytes))) : Effect.void
    )
  )
  const sent = yield* Noted.sendMany(payloads)
  const after = yield* used
  process.stdout.write(`${JSON.stringify({ sent, before, most, after, millis: performance.now() - startedAt })}\n`)
})

main.pipe(
  Effect.provide(
    Layer.provide(
      PostgresBroker.layer,
      PostgresConfig.layer({ databaseUrl: Redacted.make(process.argv[2] ?? "") })
    )
  ),
  NodeRuntime.runMain
)
