/** The broker as an application composes it, with default settings. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as PostgresBroker from "../../src/PostgresBroker.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import * as Task from "../../src/Task.ts"
import type { Contestant } from "../contestant.ts"

export class Noop extends Task.make("Noop", { payload: { n: Schema.Int } }) {}

export const layer = (url: string) =>
  PostgresBroker.layer.pipe(Layer.provide(PostgresConfig.layer({ databaseUrl: Redacted.make(url) })))

/** `sendMany` takes a thousand at a time. */
export const sender: Contestant["sender"] = Effect.fnUntraced(function*(url) {
  const broker = yield* Layer.build(layer(url))
  return (payloads) => Effect.asVoid(Effect.provideContext(Noop.sendMany(payloads), broker))
})
