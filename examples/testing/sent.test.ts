/** What a service sends: asked of the broker, in the words of the definition. No worker is there to run any of it. */
import { it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { MemoryBroker } from "effect-horsies"
import { assertNotSent, assertSent } from "effect-horsies/testing/assertions"
import { Accounts, Remind } from "./accounts.ts"

const Test = Accounts.layer.pipe(Layer.provideMerge(MemoryBroker.layer))

it.effect("sends one reminder for in an hour", () =>
  Effect.gen(function*() {
    const accounts = yield* Accounts
    yield* assertNotSent(Remind)
    yield* accounts.signUp("ada@example.com")
    yield* assertSent(Remind, { payload: { email: "ada@example.com" }, delay: "1 hour", times: 1 })
  }).pipe(Effect.provide(Test)))
