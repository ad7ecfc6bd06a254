/**
 * The session connection: one dedicated connection that listens on every channel somebody subscribed to.
 *
 * Notifications are hints. When the connection is lost, it is opened again and every channel is listened to again;
 * what was notified in between is gone, so every subscriber is then told to look again. The connection proves itself by
 * notifications to itself: at its start, and whenever nothing has come for a while.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import { ConnectionError, SqlError } from "effect/sql/SqlError"
import * as Stream from "effect/Stream"
import type * as SubscriptionRef from "effect/SubscriptionRef"
import { BrokerError, Refused } from "../Broker.ts"
import { PostgresConfig } from "../PostgresConfig.ts"
import type { Endpoint } from "../PostgresUrl.ts"
import { monotonic, realClock } from "./clock.ts"
import * as ConnectionState from "./ConnectionState.ts"
import { echoing } from "./echo.ts"
import { fromSqlError } from "./failure.ts"
import { ask, open, type OwnedConnection, proveWritable } from "./open.ts"
import { patienceOf } from "./Pool.ts"
import { Siblings } from "./Siblings.ts"
import { type Event, lookAgain, Subscribers } from "./Subscribers.ts"
import { within } from "./within.ts"

/** The first try to reconnect comes within this time, in milliseconds; later ones back off to the cap. */
const firstDelay = 200
const delayCap = 5000

/** How long a notification may take once it is on its way. One that never comes was swallowed by a transaction pooler. */
const selfTestDeadline = Duration.seconds(2)

/** The session connection as a service. */
export class SessionListener extends Context.Service<SessionListener, {
  /** Subscribes to a channel until the scope closes. The first event is `LookAgain`, once the server listens. */
  readonly subscribe: (channel: string) => Effect.Effect<Queue.Dequeue<Event>, never, Scope.Scope>
  readonly state: SubscriptionRef.SubscriptionRef<ConnectionState.ConnectionState>
  /** Whether there is a session at all. Without one, nothing is ever notified: poll. */
  readonly listens: boolean
}>()("effect-horsies/connection/SessionListener") {
  /**
   * Connects. Fails when the first attempt does; from then on it reconnects for ever. Where the settings have only a
   * transaction pool, it stays silent.
   */
  static readonly layer: Layer.Layer<SessionListener, BrokerError, PostgresConfig> = Layer.effect(
    SessionListener,
    Effect.flatMap(PostgresConfig, (config) => config.session === undefined ? silent : make(config, config.session))
  ).pipe(Layer.provide(Siblings.layer))

  /** No session: every subscriber looks once. */
  static readonly layerSilent: Layer.Layer<SessionListener> = Layer.effect(
    SessionListener,
    Effect.suspend(() => silent)
  )
}

const silent = Effect.gen(function*() {
  const subscribers = new Subscribers()
  const state = yield* ConnectionState.make(undefined)
  yield* state.closed
  return SessionListener.of({
    listens: false,
    state: state.ref,
    subscribe: (channel) => {
      const look = Effect.sync(() => subscribers.tell(channel, lookAgain))
      return subscribers.subscribe(channel, { first: look, joined: look, last: Effect.void })
    }
  })
})

/** Somebody between us and the server accepts LISTEN and forgets it. */
class ListenSwallowed {
  readonly _tag = "ListenSwallowed"
}

const swallowed = new BrokerError({
  reason: new Refused({
    message: "LISTEN is accepted but nothing arrives: the session URL leads to a transaction or statement pooler; " +
      "set sessionDatabaseUrl to the URL of the server itself"
  })
})

const probeLost = () => {
  const message = "the session connection does not answer"
  return new SqlError({ reason: new ConnectionError({ cause: new Error(message), message, operation: "probe" }) })
}

const make = Effect.fnUntraced(function*(config: PostgresConfig["Service"], endpoint: Endpoint) {
  const subscribers = new Subscribers()
  const siblings = yield* Siblings
  const state = yield* ConnectionState.make({ connection: "session", application: config.applicationName })
  const connected = yield* Deferred.make<void, BrokerError>()
  const probeInterval = patienceOf(config)
  const probeDeadline = Duration.subtract(config.deadPeerBound, Duration.millis(probeInterval))
  /** Channels whose first subscriber came, or whose last one left, while the session was up. */
  let changes: Queue.Queue<string> | undefined
  /** Channels on which the server listens for us. */
  const heardOf = new Set<string>()
  let failures = 0
  let proven = false

  const session = Effect.scopedWith(Effect.fnUntraced(function*(scope) {
    const owned = yield* Scope.provide(
      open(config, { endpoint, transactionPool: false, limits: {} }),
      scope
    )
    // Pinned once: on an unpinned connection the second LISTEN would wait for the first to end.
    const connection = yield* Scope.provide(owned.connection.pin, scope)
    const channels = yield* Scope.fork(scope)
    // Closed before the channels are: UNLISTEN would wait for a link that may be dead.
    yield* Scope.addFinalizer(scope, Effect.sync(owned.destroy))
    const lost = yield* Deferred.make<never, SqlError>()
    let heardAt = monotonic()

    const listening = new Map<string, Scope.Closeable>()
    const listen = Effect.fnUntraced(function*(channel: string, heard: (payload: string) => void) {
      const own = yield* Scope.fork(channels)
      listening.set(channel, own)
      const notifications = yield* echoing(
        config,
        `LISTEN ${channel}`,
        within(owned, probeDeadline, Scope.provide(connection.listen(channel), own))
      )
      yield* Stream.fromQueue(notifications).pipe(
        Stream.runForEach(({ payload }) =>
          Effect.sync(() => {
            heardAt = monotonic()
            heard(payload)
          })
        ),
        Effect.catchCause((cause) => Deferred.failCause(lost, cause)),
        Effect.forkIn(own)
      )
    })
    const listenFor = (channel: string) =>
      Effect.andThen(
        listen(channel, (payload) => subscribers.tell(channel, { _tag: "Notified", payload })),
        Effect.sync(() => {
          heardOf.add(channel)
          subscribers.tell(channel, lookAgain)
        })
      )
    const follow = (channel: string) => {
      const own = listening.get(channel)
      if (subscribers.has(channel)) {
        // Whoever came before the last one's leaving was noticed has yet to be told.
        return own === undefined ? listenFor(channel) : Effect.sync(() => subscribers.tell(channel, lookAgain))
      }
      listening.delete(channel)
      heardOf.delete(channel)
      return own === undefined
        ? Effect.void
        : echoing(config, `UNLISTEN ${channel}`, within(owned, probeDeadline, Scope.close(own, Exit.void)))
    }

    // Itself: a channel that only this connection uses.
    const self = `horsies_self_${SecureRandom.uuidV4Unsafe().replaceAll("-", "")}`
    let echoed: Deferred.Deferred<void> | undefined
    yield* listen(self, () => echoed === undefined ? undefined : Deferred.doneUnsafe(echoed, Effect.void))
    const itself = { ...owned, connection }
    const probe = Effect.fnUntraced(function*(notifier: OwnedConnection) {
      const startedAt = monotonic()
      const answer = yield* Deferred.make<void>()
      echoed = answer
      yield* ask(notifier, probeDeadline, "select pg_notify($1, '')", [self])
      const heard = yield* Effect.timeoutOption(Deferred.await(answer), selfTestDeadline)
      if (Option.isNone(heard)) {
        if (proven) return yield* probeLost()
        // Where this link answers, nothing else can be wrong with it.
        yield* ask(itself, probeDeadline, "select 1")
        return yield* Effect.fail(new ListenSwallowed())
      }
      return Duration.millis(monotonic() - startedAt)
    })
    // A transaction pooler may run what we send where we listened, and give us the notification with the answer: only
    // one that comes while we are idle proves anything.
    const proveListening = Effect.scoped(Effect.gen(function*() {
      const here = { ...endpoint, hosts: [owned.host] as const }
      const other = yield* open(config, { endpoint: here, transactionPool: false, limits: {} })
      yield* Effect.addFinalizer(() => Effect.sync(other.destroy))
      yield* probe(other)
    }))
    const queue = yield* Queue.unbounded<string>()
    const settle = Effect.gen(function*() {
      if (!proven) yield* proveListening
      const roundTrip = yield* probe(itself)
      proven = true
      changes = queue
      yield* Effect.forEach(subscribers.names(), follow, { discard: true })
      yield* state.connected(roundTrip)
      failures = 0
      if (!(yield* Deferred.succeed(connected, undefined))) {
        // What ended this connection may have ended others without a word.
        for (const pool of siblings.pools) pool.distrust()
      }
    })

    const watch = Effect.gen(function*() {
      const wait = heardAt + probeInterval - monotonic()
      if (wait > 0) yield* Effect.sleep(Duration.millis(wait))
      else {
        yield* state.connected(yield* probe(itself))
        yield* proveWritable(itself, endpoint, probeDeadline)
      }
    })
    const serve = Effect.raceFirst(
      Effect.forever(Effect.flatMap(Queue.take(queue), follow)),
      Effect.forever(watch)
    )
    return yield* Effect.raceFirst(Deferred.await(lost), Effect.andThen(settle, serve))
  }))

  const connect = Effect.gen(function*() {
    const exit = yield* Effect.exit(session)
    changes = undefined
    heardOf.clear()
    if (Exit.isSuccess(exit)) return
    if (Cause.hasInterruptsOnly(exit.cause)) return yield* Effect.interrupt
    const failure = exit.cause.reasons.find(Cause.isFailReason)?.error
    const error = failure === undefined
      ? new BrokerError({ reason: new Refused({ message: Cause.pretty(exit.cause) }) })
      : failure instanceof ListenSwallowed
      ? swallowed
      : fromSqlError(failure)
    yield* Deferred.fail(connected, error)
    yield* state.lost(error.reason.message)
    yield* Effect.annotateLogs(Effect.logWarning("session connection lost"), error.annotations)
    const most = Math.min(delayCap, firstDelay * 2 ** failures)
    failures = Math.min(failures + 1, 10)
    yield* Effect.sleep(Duration.millis((yield* Random.next) * most))
  })

  yield* Effect.addFinalizer(() => state.closed)
  yield* Effect.forever(connect).pipe(
    Effect.annotateLogs({ module: "SessionListener" }),
    Effect.provideService(Clock.Clock, realClock),
    Effect.forkScoped
  )
  yield* Deferred.await(connected)

  const changed = (channel: string) => Effect.sync(() => changes !== undefined && Queue.offerUnsafe(changes, channel))
  return SessionListener.of({
    listens: true,
    state: state.ref,
    subscribe: (channel) =>
      subscribers.subscribe(channel, {
        first: Effect.asVoid(changed(channel)),
        // Otherwise everybody is told as soon as the server listens.
        joined: Effect.sync(() => heardOf.has(channel) && subscribers.tell(channel, lookAgain)),
        last: Effect.asVoid(changed(channel))
      })
  })
})
