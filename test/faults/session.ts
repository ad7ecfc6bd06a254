/** Parts of the tests of the session connection. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import type { ConnectionState } from "../../src/connection/ConnectionState.ts"
import { SessionListener } from "../../src/connection/SessionListener.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import * as proxied from "./proxied.ts"

/** A session connection over settings. */
export const listenerOf = (options: PostgresConfig.Options) =>
  Effect.map(
    Layer.build(Layer.fresh(Layer.provide(SessionListener.layer, PostgresConfig.layer(options)))),
    (context) => Context.get(context, SessionListener)
  )

/** The same through a proxy of its own. */
export const makeListener = Effect.fnUntraced(function*(settings: proxied.Settings = {}) {
  const { applicationName, options, proxy } = yield* proxied.make(settings)
  return { proxy, applicationName, listener: yield* listenerOf(options) }
})

/** Waits until a session is connected for the so manieth time after its first. */
export const reconnected = (listener: SessionListener["Service"], times: number) =>
  SubscriptionRef.changes(listener.state).pipe(
    Stream.filter(({ reconnects, status }) => status === "connected" && reconnects >= times),
    Stream.take(1),
    Stream.runDrain
  )

/** Collects the states of a session from now on until it is closed. Succeeds with the effect that waits for that. */
export const watchState = (listener: SessionListener["Service"], on: (state: ConnectionState) => void = () => {}) =>
  SubscriptionRef.changes(listener.state).pipe(
    Stream.tap((state) => Effect.sync(() => on(state))),
    Stream.takeUntil(({ status }) => status === "closed"),
    Stream.runCollect,
    Effect.forkScoped({ startImmediately: true }),
    Effect.map(Fiber.join)
  )
