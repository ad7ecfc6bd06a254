/** Tenants that share a queue: they take turns, each may only use so much of it, and an operator can stop it. */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Layer, Schema } from "effect"
import { Monitor, Task, Worker } from "effect-horsies"
import { Broker } from "../Database.ts"

class Export extends Task.make("Export", {
  payload: { tenant: Schema.String, part: Schema.Int },
  queue: "exports",
  concurrencyKey: ({ tenant }) => tenant
}) {}

const ExportLive = Export.toLayer(({ part, tenant }) => Console.log(`exporting part ${part} for ${tenant}`))

// However many workers there are: one export at a time, and two an hour for each tenant.
const ExportWorker = Worker.layer({
  queues: { exports: { limits: { concurrency: 1, perKey: { rate: { limit: 2, per: "1 hour" } } } } }
})

const send = (tenant: string, part: number) => Export.send({ tenant, part })

const program = Effect.gen(function*() {
  yield* Monitor.pause("exports") // at once, for all workers
  const first = yield* send("acme", 1)
  const second = yield* send("acme", 2)
  const third = yield* send("acme", 3)
  yield* send("globex", 1)
  yield* Console.log("why does the first not run?", (yield* Monitor.whyNotRunning(first.id))._tag)

  yield* Monitor.resume("exports")
  yield* second.await
  yield* Console.log("why does the third not run?", (yield* Monitor.whyNotRunning(third.id))._tag)

  yield* Monitor.limit("exports", { concurrency: 1 }) // no limit for tenants any more
  yield* third.await
})

const Live = ExportLive.pipe(Layer.provideMerge(ExportWorker), Layer.provideMerge(Broker))

program.pipe(Effect.provide(Live), NodeRuntime.runMain)
