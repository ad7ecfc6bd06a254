/**
 * The session connection: one dedicated connection that listens on every channel somebody subscribed to.
 *
 * Notifications are hints. When the connection is lost, it is opened again and every channel is listened to again;
 * what was notified in between is gone, so every subscriber is then told to look again.
 */
import * as PgConnection from "@effect/sql-pg/PgConnection"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import type { SqlError } from "effect/sql/SqlError"
import * as Stream from "effect/Stream"
import type { BrokerError } from "../Broker.ts"
import { PostgresConfig } from "../PostgresConfig.ts"
import { connectionConfig } from "./connectionConfig.ts"
import { fromSqlError } from "./failure.ts"
import { ownedSocket } from "./socket.ts"

/** What a subscriber of a channel is told. */
export type Event =
  | { readonly _tag: "Notified"; readonly payload: string }
  /** The connection is new: something may have been notified that nobody heard. */
  | { readonly _tag: "LookAgain" }

const lookAgain: Event = { _tag: "LookAgain" }

/** Time between two probes of the session connection, and how long one may take. */
const probeInterval = Duration.seconds(10)
const probeDeadline = Duration.seconds(5)

/** Reconnects start within this time and back off up to the cap. */
const firstDelay = 200
const delayCap = 5000

/** The session connection as a service. */
export class SessionListener extends Context.Service<SessionListener, {
  /** Subscribes to a channel until the scope closes. The first event is `LookAgain`, once the server listens. */
  readonly subscribe: (channel: string) => Effect.Effect<Queue.Dequeue<Event>, never, Scope.Scope>
}>()("effect-horsies/connection/SessionListener") {
  /** Connects. Fails when the first attempt does; from then on it reconnects for ever. */
  static readonly layer: Layer.Layer<SessionListener, BrokerError, PostgresConfig> = Layer.effect(
    SessionListener,
    Effect.suspend(() => make)
  )
}

const make = Effect.gen(function*() {
  const config = yield* PostgresConfig
  const settings = connectionConfig(config, config.session)
  const subscribers = new Map<string, Set<Queue.Queue<Event>>>()
  /** Channels that the current session has yet to listen to. */
  let wanted: Queue.Queue<string> | undefined
  const connected = yield* Deferred.make<void, BrokerError>()

  const tell = (channel: string, event: Event) => {
    for (const subscriber of subscribers.get(channel) ?? []) {
      Queue.offerUnsafe(subscriber, event)
    }
  }

  const session = Effect.scopedWith(Effect.fnUntraced(function*(scope) {
    const socket = ownedSocket(settings)
    const root = yield* Scope.provide(PgConnection.make({ ...settings, stream: socket.open }), scope)
    // Pinned once: on an unpinned connection the second LISTEN would wait for the first to end.
    const connection = yield* Scope.provide(root.pin, scope)
    // An interrupt of a statement on a dead link waits for seconds; a destroyed socket ends it at once.
    yield* Scope.addFinalizer(scope, Effect.sync(socket.destroy))

    const channels = yield* Queue.unbounded<string>()
    wanted = channels
    const pumps = yield* Deferred.make<never, SqlError>()
    const listen = Effect.fnUntraced(function*(channel: string) {
      const notifications = yield* Scope.provide(connection.listen(channel), scope)
      tell(channel, lookAgain)
      yield* Stream.fromQueue(notifications).pipe(
        Stream.runForEach(({ payload }) => Effect.sync(() => tell(channel, { _tag: "Notified", payload }))),
        Effect.catchCause((cause) => Deferred.failCause(pumps, cause)),
        Effect.forkIn(scope)
      )
    })
    for (const channel of subscribers.keys()) {
      yield* listen(channel)
    }
    yield* Deferred.succeed(connected, undefined)
    failures = 0

    const probe = Effect.gen(function*() {
      const deadline = yield* Effect.forkChild(Effect.andThen(Effect.sleep(probeDeadline), Effect.sync(socket.destroy)))
      yield* connection.query("select 1", [], false)
      yield* Fiber.interrupt(deadline)
    })
    return yield* Effect.raceAllFirst([
      Deferred.await(pumps),
      Effect.forever(Effect.flatMap(Queue.take(channels), listen)),
      Effect.forever(Effect.andThen(Effect.sleep(probeInterval), probe))
    ])
  }))

  let failures = 0
  const reconnecting = Effect.forever(Effect.gen(function*() {
    const exit = yield* Effect.exit(session)
    wanted = undefined
    if (Exit.isFailure(exit)) {
      if (Cause.hasInterruptsOnly(exit.cause)) return yield* Effect.interrupt
      const failure = exit.cause.reasons.find(Cause.isFailReason)
      const error = failure === undefined ? undefined : fromSqlError(failure.error)
      if (error !== undefined) yield* Deferred.fail(connected, error)
      yield* Effect.annotateLogs(
        Effect.logWarning("session connection lost"),
        error?.annotations ?? { cause: Cause.pretty(exit.cause) }
      )
    }
    const most = Math.min(delayCap, firstDelay * 2 ** failures)
    failures = Math.min(failures + 1, 10)
    yield* Effect.sleep(Duration.millis((yield* Random.next) * most))
  }))

  yield* reconnecting.pipe(
    Effect.annotateLogs({ module: "SessionListener" }),
    Effect.forkScoped
  )
  yield* Deferred.await(connected)

  return SessionListener.of({
    subscribe: Effect.fnUntraced(function*(channel) {
      const queue = yield* Queue.unbounded<Event>()
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          const others = subscribers.get(channel)
          if (others === undefined) {
            subscribers.set(channel, new Set([queue]))
            if (wanted !== undefined) Queue.offerUnsafe(wanted, channel)
          } else {
            others.add(queue)
            Queue.offerUnsafe(queue, lookAgain)
          }
        }),
        () =>
          Effect.andThen(
            Effect.sync(() => subscribers.get(channel)?.delete(queue)),
            Queue.shutdown(queue)
          )
      )
      return queue
    })
  })
})
