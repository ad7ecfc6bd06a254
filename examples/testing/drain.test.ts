/** Tasks run when the test says so, and the clock goes straight to when the next one is due. */
import { assert, it } from "@effect/vitest"
import { Effect, Layer, Option } from "effect"
import { MemoryBroker } from "effect-horsies"
import * as TestWorker from "effect-horsies/testing/TestWorker"
import { Accounts, Mailer, MailerDown, RemindLive } from "./accounts.ts"

/** Everything as in production, except for the broker, the worker, and a mailer that is down for a while. */
const service = (options: { readonly outbox: Array<string>; readonly failures: number }) => {
  let failures = options.failures
  return RemindLive.pipe(
    Layer.provideMerge(TestWorker.layer),
    Layer.provideMerge(Accounts.layer),
    Layer.provide(MemoryBroker.layer),
    Layer.provide(Layer.mock(Mailer, {
      send: ({ to }) => failures-- > 0 ? Effect.fail(new MailerDown()) : Effect.sync(() => void options.outbox.push(to))
    }))
  )
}

it.effect("reminds whoever has not confirmed", () => {
  const outbox: Array<string> = []
  return Effect.gen(function*() {
    const accounts = yield* Accounts
    yield* accounts.signUp("ada@example.com")
    yield* accounts.signUp("bob@example.com")
    yield* accounts.confirm("ada@example.com")

    assert.isTrue(Option.isNone(yield* TestWorker.runNext))
    yield* TestWorker.drain({ due: true })
    assert.deepStrictEqual(outbox, ["bob@example.com"])
  }).pipe(Effect.provide(service({ outbox, failures: 0 })))
})

it.effect("gives up when the mailer is down for too long", () => {
  const outbox: Array<string> = []
  return Effect.gen(function*() {
    const accounts = yield* Accounts
    yield* accounts.signUp("ada@example.com")

    const runs = yield* TestWorker.drain({ due: true })
    assert.deepStrictEqual(runs.map(({ state }) => state), ["PENDING", "PENDING", "PENDING", "FAILED"])
    assert.deepStrictEqual(outbox, [])
  }).pipe(Effect.provide(service({ outbox, failures: 4 })))
})
