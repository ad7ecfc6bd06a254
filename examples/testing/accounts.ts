/** The code under test: whoever signs up and has not confirmed within the hour is reminded once. */
import { Context, Effect, Layer, Schedule, Schema } from "effect"
import { Broker, Task } from "effect-horsies"

export class MailerDown extends Schema.TaggedError<MailerDown>()("MailerDown", {}) {}

/** Sends mail. Of two mails with the same id it sends one. */
export class Mailer extends Context.Service<Mailer, {
  readonly send: (mail: { readonly id: string; readonly to: string }) => Effect.Effect<void, MailerDown>
}>()("testing/Mailer") {}

export class Remind extends Task.make("Remind", {
  payload: { email: Schema.String },
  error: MailerDown,
  retry: { times: 3, schedule: Schedule.spaced("5 minutes") }
}) {}

export class Accounts extends Context.Service<Accounts, {
  readonly signUp: (email: string) => Effect.Effect<void, Broker.BrokerError>
  readonly confirm: (email: string) => Effect.Effect<void>
  readonly isConfirmed: (email: string) => Effect.Effect<boolean>
}>()("testing/Accounts") {
  static readonly layer = Layer.effect(
    Accounts,
    Effect.gen(function*() {
      const broker = yield* Broker.Broker
      const confirmed = new Set<string>()
      return Accounts.of({
        signUp: (email) =>
          Remind.send({ email }, { delay: "1 hour" }).pipe(
            // What is sent is right.
            Effect.catchTag("PayloadError", Effect.die),
            Effect.provideService(Broker.Broker, broker),
            Effect.asVoid
          ),
        confirm: (email) => Effect.sync(() => void confirmed.add(email)),
        isConfirmed: (email) => Effect.sync(() => confirmed.has(email))
      })
    })
  )
}

/** The handler by itself, so that tests can call it. */
export const remind = Effect.fn("remind")(function*({ email }: typeof Remind.payloadSchema.Type) {
  const accounts = yield* Accounts
  const mailer = yield* Mailer
  const { id } = yield* Task.CurrentTask
  if (yield* accounts.isConfirmed(email)) return
  // A second run of the same task has the same id: the mailer will know.
  yield* mailer.send({ id, to: email })
})

export const RemindLive = Remind.toLayer(remind)
