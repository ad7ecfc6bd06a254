/** The whole flow without a database: a real worker, the broker in memory, and time in the hands of the test. */
import { assert, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { MemoryBroker, Worker } from "effect-horsies"
import { TestClock } from "effect/testing"
import { Accounts, Mailer, MailerDown, RemindLive } from "./accounts.ts"

/** Everything as in production, except for the broker and for a mailer that is down for a while. */
const service = (options: { readonly outbox: Array<string>; readonly failures: number }) => {
  let failures = options.failures
  return RemindLive.pipe(
    Layer.provide(Worker.layer()),
    Layer.provideMerge(Accounts.layer),
    Layer.provide(MemoryBroker.layer),
    Layer.provide(Layer.mock(Mailer, {
      send: ({ to }) => failures-- > 0 ? Effect.fail(new MailerDown()) : Effect.sync(() => void options.outbox.push(to))
    }))
  )
}

it.effect("reminds who has not confirmed within the hour, and nobody else", () => {
  const outbox: Array<string> = []
  return Effect.gen(function*() {
    const accounts = yield* Accounts
    yield* accounts.signUp("ada@example.com")
    yield* accounts.signUp("bob@example.com")
    yield* accounts.confirm("ada@example.com")

    yield* TestClock.adjust("59 minutes")
    assert.deepStrictEqual(outbox, [])
    yield* TestClock.adjust("1 minute")
    assert.deepStrictEqual(outbox, ["bob@example.com"])
  }).pipe(Effect.provide(service({ outbox, failures: 0 })))
})

it.effect("tries again every five minutes while the mailer is down", () => {
  const outbox: Array<string> = []
  return Effect.gen(function*() {
    const accounts = yield* Accounts
    yield* accounts.signUp("ada@example.com")

    yield* TestClock.adjust("69 minutes")
    assert.deepStrictEqual(outbox, [])
    yield* TestClock.adjust("1 minute")
    assert.deepStrictEqual(outbox, ["ada@example.com"])
  }).pipe(Effect.provide(service({ outbox, failures: 2 })))
})
