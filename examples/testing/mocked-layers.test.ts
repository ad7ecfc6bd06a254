/** One piece at a time: no worker, no broker, only what the piece under test asks for. */
import { assert, it } from "@effect/vitest"
import { Duration, Effect, Layer } from "effect"
import { Broker, Task } from "effect-horsies"
import { Accounts, Mailer, remind } from "./accounts.ts"

it.effect("sends a reminder for in an hour", () => {
  const sent: Array<Broker.NewTask> = []
  // Whatever else than `send` is asked of this broker ends the test.
  const Recorder = Layer.mock(Broker.Broker, {
    send: (tasks) => Effect.sync(() => void sent.push(...tasks))
  })
  return Effect.gen(function*() {
    const accounts = yield* Accounts
    yield* accounts.signUp("ada@example.com")
    assert.strictEqual(sent.length, 1)
    assert.strictEqual(sent[0]?.name, "Remind")
    assert.deepStrictEqual(sent[0]?.due, { after: 3_600_000 })
    assert.deepStrictEqual(JSON.parse(sent[0]?.payload ?? ""), { email: "ada@example.com" })
  }).pipe(Effect.provide(Accounts.layer.pipe(Layer.provide(Recorder))))
})

it.effect("says so when the broker cannot be reached", () => {
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
    remind({ email }).pipe(
      Effect.provideService(Task.CurrentTask, {
        id: `task for ${email}`,
        name: "Remind",
        queue: "default",
        priority: 100,
        attempt,
        losses: 0,
        fence: attempt,
        waited: Duration.zero
      })
    )
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
