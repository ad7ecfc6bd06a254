/** The whole flow on a real server, whose time moves together with `TestClock`. */
import { assert, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { EmbeddedPostgres, PostgresBroker, Worker } from "effect-horsies"
import * as DatabaseClock from "effect-horsies/testing/DatabaseClock"
import { Accounts, Mailer, RemindLive } from "./accounts.ts"

const service = (outbox: Array<string>) =>
  RemindLive.pipe(
    // It need not prove its lease all the time: an hour passes at once.
    Layer.provide(Worker.layer({ heartbeatInterval: "30 days" })),
    Layer.provideMerge(Accounts.layer),
    Layer.provide(PostgresBroker.layerConfig),
    Layer.provideMerge(DatabaseClock.layerConfig),
    Layer.provide(EmbeddedPostgres.layerDatabaseUrl({ durable: false })),
    Layer.provide(Layer.mock(Mailer, { send: ({ to }) => Effect.sync(() => void outbox.push(to)) }))
  )

it.effect("reminds who has not confirmed within the hour, and nobody else", () => {
  const outbox: Array<string> = []
  return Effect.gen(function*() {
    const accounts = yield* Accounts
    yield* accounts.signUp("ada@example.com")
    yield* accounts.signUp("bob@example.com")
    yield* accounts.confirm("ada@example.com")

    yield* DatabaseClock.advance("59 minutes")
    assert.deepStrictEqual(outbox, [])
    yield* DatabaseClock.advance("1 minute")
    assert.deepStrictEqual(outbox, ["bob@example.com"])
  }).pipe(Effect.provide(service(outbox)))
})
