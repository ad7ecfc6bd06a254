/** One piece at a time: no worker, no broker, only what the piece under test asks for. */
import { assert, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { Broker, Task } from "effect-horsies"
import { Accounts, Mailer, remind } from "./accounts.ts"

it.effect("says so when the broker cannot be reached", () => {
  // Whatever else than `send` is asked of this broker ends the test.
  const Unreachable = Layer.mock(Broker.Broker, {
    send: () => Effect.fail(new Broker.BrokerError({ reason: new Broker.Unavailable({ message: "no route to host" }) }))
  })
  return Effect.gen(function*() {
    const accounts = yield* Accounts
    const error = yield* Effect.flip(accounts.signUp("ada@example.com"))
    assert.isTrue(error.isRetryable)
  }).pipe(Effect.provide(Accounts.layer.pipe(Layer.provide(Unreachable))))
})

it.effect("the handler alone: a second run of a task sends the same mail", () => {
  const mails: Array<{ readonly id: string; readonly to: string }> = []
  const Mocks = Layer.mergeAll(
    Layer.mock(Accounts, { isConfirmed: (email) => Effect.succeed(email === "bob@example.com") }),
    Layer.mock(Mailer, { send: (mail) => Effect.sync(() => void mails.push(mail)) })
  )
  const run = (email: string, attempt: number) =>
    remind({ email }).pipe(Effect.provide(Task.layerCurrentTask({ id: `task for ${email}`, attempt })))
  return Effect.gen(function*() {
    yield* run("ada@example.com", 1)
    yield* run("ada@example.com", 2)
    yield* run("bob@example.com", 1)
    assert.deepStrictEqual(mails, [
      { id: "task for ada@example.com", to: "ada@example.com" },
      { id: "task for ada@example.com", to: "ada@example.com" }
    ])
  }).pipe(Effect.provide(Mocks))
})
