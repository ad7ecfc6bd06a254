/** What an operator does: looks at what has failed, mends the cause, sends it again, and clears up. */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Layer, Schema } from "effect"
import { Monitor, Task, Worker } from "effect-horsies"
import { Broker } from "../Database.ts"

class Import extends Task.make("Import", {
  payload: { customer: Schema.String, file: Schema.String },
  error: Schema.String,
  tags: ({ customer }) => ({ customer })
}) {}

class Invite extends Task.make("Invite", {
  payload: { customer: Schema.String },
  tags: ({ customer }) => ({ customer })
}) {}

/** Files that cannot be read. */
const unreadable = new Set(["orders.csv"])

const ImportLive = Import.toLayer(({ file }) =>
  unreadable.has(file) ? Effect.fail(`${file} is not UTF-8`) : Effect.void
)

/** The service as it runs. No worker knows how to invite anybody yet. */
const send = Effect.gen(function*() {
  const customers = yield* Import.send({ customer: "acme", file: "customers.csv" })
  const orders = yield* Import.send({ customer: "acme", file: "orders.csv" })
  yield* Import.send({ customer: "acme", file: "prices.csv" }, { delay: "1 hour" })
  yield* Invite.send({ customer: "acme" })
  yield* customers.await
  yield* Effect.flip(orders.await)
})

const operate = Effect.gen(function*() {
  for (const { name, outcome, payload } of yield* Monitor.failed()) {
    yield* Console.log("failed:", name, payload, outcome?._tag === "Failed" && outcome.failure.value)
  }

  unreadable.delete("orders.csv")
  for (const { id } of yield* Monitor.resend({ name: "Import" })) {
    yield* Import.await(id)
    yield* Console.log("sent again, and done")
  }

  for (const { id, name, payload } of yield* Monitor.tasks({}, { states: ["PENDING"] })) {
    yield* Console.log("waiting:", name, payload, (yield* Monitor.whyNotRunning(id))._tag)
  }

  const { cancelled } = yield* Monitor.cancel({ tags: { customer: "acme" } })
  yield* Console.log("cancelled:", cancelled.length)
})

const Live = ImportLive.pipe(Layer.provideMerge(Worker.layer()), Layer.provideMerge(Broker))

Effect.andThen(send, operate).pipe(Effect.provide(Live), NodeRuntime.runMain)
