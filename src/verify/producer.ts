/**
 * The program of a producer of a run: sends tasks, and writes down each one before it is sent and after that has
 * succeeded. What is unclear is sent again under the same id, if need be by the process that comes after it.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import { existsSync } from "node:fs"
import { Broker, BrokerError } from "../Broker.ts"
import * as PostgresBroker from "../PostgresBroker.ts"
import * as PostgresConfig from "../PostgresConfig.ts"
import * as Task from "../Task.ts"
import * as Journal from "./journal.ts"
import { ready } from "./processes.ts"
import { chance } from "./random.ts"
import { plan } from "./sending.ts"
import * as Settings from "./Settings.ts"
import { definitions } from "./tasks.ts"

const file = "sends.jsonl"

/** Sends that may be under way at once. */
const mostUnderWay = 500

/** Milliseconds between two looks at how much is to be sent. */
const tick = 50

process.once("disconnect", () => process.exit(1))

/** What the processes before this one have sent without an answer, and the number after their last. */
const before = (): { readonly unclear: ReadonlyArray<Journal.SendLine>; readonly next: number } => {
  const unclear = new Map<string, Journal.SendLine>()
  let next = 0
  for (const line of existsSync(file) ? Journal.linesOf<Journal.SendsLine>(file) : []) {
    if (line.what === "send") {
      unclear.set(line.id, line)
      next = Math.max(next, line.n + 1)
    } else unclear.delete(line.id)
  }
  return { unclear: [...unclear.values()], next }
}

/** Again and again, as long as that can help. */
const patiently = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.retry(effect, {
    while: (error) => error instanceof BrokerError && error.isRetryable,
    schedule: Schedule.spaced("100 millis")
  })

const main = Effect.gen(function*() {
  const settings = yield* Settings.read
  const broker = yield* Broker
  yield* ready
  const { next, unclear } = before()
  const journal = Journal.open<Journal.SendsLine>(file)
  const stop = yield* Deferred.make<void>()
  let paused = false
  process.on("message", (message) => {
    paused = message === "pause"
    if (message === "stop") Deferred.doneUnsafe(stop, Effect.void)
  })

  const cancel = (id: string) =>
    Effect.gen(function*() {
      // Of a second try nobody could tell what the first has done.
      const { cancelled } = yield* broker.cancel({ ids: [id] })
      if (cancelled.includes(id)) journal.write({ what: "cancelled", at: yield* Clock.currentTimeMillis, id })
    }).pipe(Effect.ignore)

  const send = (line: Journal.SendLine) =>
    Effect.gen(function*() {
      const { delay, failures, id, key, kind, millis, n } = line
      const payload = { n, millis, failures, key }
      const handle = yield* patiently(definitions[kind].send(payload, { id, delay }))
      journal.write({ what: "sent", at: yield* Clock.currentTimeMillis, id, stored: handle.id })
      if (kind === "cancelled") yield* cancel(id)
    }).pipe(
      Effect.catch((error) =>
        Effect.map(Clock.currentTimeMillis, (at) =>
          journal.write({ what: "refused", at, id: line.id, error: error.message }))
      )
    )

  const random = chance(settings.seed, `producer ${settings.slot} from ${next}`)
  const sending = yield* FiberSet.make<void>()
  const begin = Effect.fnUntraced(function*(n: number) {
    const { times, ...planned } = plan(settings.slot, n, settings.long, random)
    for (let i = 0; i < times; i++) {
      const line: Journal.SendLine = {
        what: "send",
        at: yield* Clock.currentTimeMillis,
        id: yield* Task.makeId,
        ...planned
      }
      journal.write(line)
      yield* FiberSet.run(sending, send(line))
    }
  })

  yield* Effect.forEach(unclear, (line) => FiberSet.run(sending, send(line)), { discard: true })
  let n = next
  let owed = 0
  const produce = Effect.gen(function*() {
    // What an outage has held up is made up for, but not all at once.
    owed = Math.min(owed + settings.rate * tick / 1000, settings.rate * 2)
    const most = paused ? 0 : Math.min(Math.floor(owed), mostUnderWay - (yield* FiberSet.size(sending)))
    for (let i = 0; i < most; i++) yield* begin(n++)
    owed -= Math.max(0, most)
    yield* Effect.sleep(tick)
  })
  yield* Effect.raceFirst(Effect.forever(produce), Deferred.await(stop))
  yield* FiberSet.awaitEmpty(sending)
})

main.pipe(
  Effect.scoped,
  Effect.provide(
    Layer.unwrap(
      Effect.map(
        Settings.read,
        (settings) => Layer.provide(PostgresBroker.layer, PostgresConfig.layer(Settings.database(settings)))
      )
    )
  ),
  // The channel to the run would keep the process.
  Effect.ensuring(Effect.sync(() => {
    if (process.connected) process.disconnect()
  })),
  NodeRuntime.runMain
)
