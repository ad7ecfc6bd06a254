import { assert, layer } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import * as SubscriptionRef from "effect/SubscriptionRef"
import type { Event } from "../../src/connection/Subscribers.ts"
import { type FaultProxy, openSockets } from "../support/FaultProxy.ts"
import * as proxied from "./proxied.ts"
import { listenerOf, makeListener, reconnected, watchState } from "./session.ts"

/** idle + interval × count of `proxied.alert`, in milliseconds, and what a slow machine may take on top. */
const bound = 3000
const slack = 500

/** Without any wait between tries. */
const eager = { nextDoubleUnsafe: () => 0, nextIntUnsafe: () => 0 }

const notify = (channel: string, payload: string) =>
  Effect.flatMap(SqlClient, (observer) => observer`select pg_notify(${channel}, ${payload})`)

/** The next payload, whatever there was to look again for before it. */
const payload = (events: Queue.Dequeue<Event>): Effect.Effect<string> =>
  Effect.flatMap(
    Queue.take(events),
    (event) => event._tag === "Notified" ? Effect.succeed(event.payload) : payload(events)
  )

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("the session connection", (it) => {
  it.effect("on a half-open link is noticed and replaced within idle + interval × count", () =>
    Effect.gen(function*() {
      const { listener, proxy } = yield* makeListener(proxied.alert)
      const events = yield* listener.subscribe("news")
      assert.strictEqual((yield* Queue.take(events))._tag, "LookAgain")
      for (const directions of [["requests", "answers"], ["requests"], ["answers"]] as const) {
        const before = SubscriptionRef.getUnsafe(listener.state).reconnects
        yield* proxy.freeze(...directions)
        yield* notify("news", "while it is dead")
        const { millis } = yield* proxied.timed(reconnected(listener, before + 1))
        assert.isBelow(millis, bound + slack, directions.join())
        // Where requests alone are lost, what was notified arrives all the same.
        const first = directions.length === 1 && directions[0] === "requests" ? yield* payload(events) : ""
        assert.strictEqual((yield* Queue.take(events))._tag, "LookAgain", `${directions.join()} ${first}`)
        yield* notify("news", "again")
        assert.strictEqual(yield* payload(events), "again")
      }
    }))

  it.effect("is replaced when its link dies during a LISTEN or an UNLISTEN", () =>
    Effect.gen(function*() {
      const { listener, proxy } = yield* makeListener(proxied.alert)
      const other = yield* Scope.make()
      yield* Queue.take(yield* Scope.provide(listener.subscribe("other"), other))
      for (const change of [listener.subscribe("more"), Scope.close(other, Exit.void)]) {
        const before = SubscriptionRef.getUnsafe(listener.state).reconnects
        yield* proxy.freeze()
        yield* change
        const { millis } = yield* proxied.timed(reconnected(listener, before + 1))
        assert.isBelow(millis, bound + slack)
      }
      const events = yield* listener.subscribe("more")
      assert.strictEqual((yield* Queue.take(events))._tag, "LookAgain")
      yield* notify("more", "heard")
      assert.strictEqual(yield* payload(events), "heard")
    }))

  it.effect("is opened anew when it dies while it is being opened", () =>
    Effect.gen(function*() {
      const { listener, proxy } = yield* makeListener({ ...proxied.alert, connectTimeout: "500 millis" })
      yield* listener.subscribe("news")
      // Swallowed from the first byte on; then after a byte more, up to where it is settled.
      yield* proxy.set({ newLinks: "swallow" })
      const accepted = proxy.counters().accepted
      yield* proxy.reset
      yield* proxied.until("it has tried twice", Effect.sync(() => proxy.counters().accepted > accepted + 1))
      yield* proxy.set({ newLinks: "forward", delay: 20 })
      for (let requests = 1; requests <= 5; requests++) {
        const before = proxy.counters()
        yield* proxy.reset
        yield* proxied.until(
          "it has sent so much",
          Effect.sync(() =>
            proxy.counters().accepted > before.accepted && proxy.counters().requests >= before.requests + requests
          )
        )
        yield* proxy.freeze()
      }
      const { millis } = yield* proxied.timed(
        proxied.until(
          "it is connected",
          Effect.map(SubscriptionRef.get(listener.state), ({ status }) => status === "connected")
        )
      )
      assert.isBelow(millis, bound + slack)
    }).pipe(Effect.provideService(Random.Random, eager)), 30_000)

  /** Starts a session, and does something to it as soon as the server listens for it, before its self-test. */
  const startAndThen = <E, R>(
    settings: proxied.Settings,
    then: (applicationName: string, proxy: FaultProxy) => Effect.Effect<unknown, E, R>
  ) =>
    Effect.gen(function*() {
      const { applicationName, options, proxy } = yield* proxied.make(settings)
      yield* proxy.set({ delay: 100 })
      const starting = yield* Effect.forkChild(proxied.timed(Effect.flip(listenerOf(options))))
      const observer = yield* SqlClient
      yield* proxied.until(
        "the server listens",
        Effect.map(
          observer`select from pg_stat_activity where application_name = ${applicationName} and query like 'LISTEN%'`,
          (rows) => rows.length === 1
        )
      )
      yield* then(applicationName, proxy)
      const { exit, millis } = yield* Fiber.join(starting)
      return { error: yield* exit, millis }
    })

  it.effect("that is lost before it is proven is away, not swallowed: trying again helps", () =>
    Effect.gen(function*() {
      const observer = yield* SqlClient
      const terminated = yield* startAndThen(
        {},
        (applicationName) =>
          observer`select pg_terminate_backend(pid) from pg_stat_activity where application_name = ${applicationName}
          and query like 'LISTEN%'`
      )
      const frozen = yield* startAndThen(proxied.alert, (_, proxy) => proxy.freeze())
      for (const { error } of [terminated, frozen]) {
        assert.isTrue(error._tag === "BrokerError" && error.isRetryable, String(error))
        assert.strictEqual(error._tag === "BrokerError" ? error.reason._tag : "", "Unavailable")
      }
      assert.isBelow(terminated.millis, 2000, "the loss is noticed at once")
    }))

  it.effect("takes a slow link for what it is", () =>
    Effect.gen(function*() {
      const { options, proxy } = yield* proxied.make(proxied.alert)
      yield* proxy.set({ delay: 300 })
      const listener = yield* listenerOf(options)
      const events = yield* listener.subscribe("news")
      assert.strictEqual((yield* Queue.take(events))._tag, "LookAgain")
      yield* Effect.sleep(bound + slack)
      const { reconnects, roundTrip, status } = yield* SubscriptionRef.get(listener.state)
      assert.deepStrictEqual({ reconnects, status }, { reconnects: 0, status: "connected" })
      assert.isAtLeast(Duration.toMillis(roundTrip!), 600)
    }))

  it.effect("closes at once, also on a dead link, and leaves no socket", () =>
    Effect.gen(function*() {
      const { options, proxy } = yield* proxied.make(proxied.alert)
      const scope = yield* Scope.make()
      const listener = yield* Scope.provide(listenerOf(options), scope)
      yield* Scope.provide(listener.subscribe("news"), scope)
      yield* proxy.freeze()
      const { millis } = yield* proxied.timed(Scope.close(scope, Exit.void))
      assert.isBelow(millis, 300)
      yield* proxied.until("every socket is closed", Effect.sync(() => openSockets(proxy.port) === 0))
      assert.strictEqual(SubscriptionRef.getUnsafe(listener.state).status, "closed")
    }))

  it.effect("tells its states: since when, how often, why, how fast", () =>
    Effect.gen(function*() {
      const { applicationName, options } = yield* proxied.make(proxied.alert)
      const scope = yield* Scope.make()
      const listener = yield* Scope.provide(listenerOf(options), scope)
      const seen = yield* watchState(listener)
      const first = SubscriptionRef.getUnsafe(listener.state)
      assert.strictEqual(first.status, "connected")
      assert.isDefined(first.roundTrip)
      const observer = yield* SqlClient
      yield* observer`select pg_terminate_backend(pid) from pg_stat_activity where application_name = ${applicationName}`
      const { millis } = yield* proxied.timed(reconnected(listener, 1))
      assert.isBelow(millis, 200 + slack)
      const second = SubscriptionRef.getUnsafe(listener.state)
      assert.isAbove(second.since, first.since)
      assert.strictEqual(second.lastError, "terminating connection due to administrator command")
      yield* Scope.close(scope, Exit.void)
      const statuses = (yield* seen).map(({ status }) => status)
      assert.deepStrictEqual(statuses.filter((status, i) => status !== statuses[i - 1]), [
        "connected",
        "reconnecting",
        "connected",
        "closed"
      ])
    }))

  it.effect("backs off from 0.2 to 5 seconds, for ever, and starts over after a success", () =>
    Effect.gen(function*() {
      const { applicationName, listener, proxy } = yield* makeListener()
      const seen: Array<number> = []
      yield* Effect.forkScoped(watchState(listener, (state) => {
        if (state.status === "reconnecting") seen.push(performance.now())
      }))
      const gaps = () => seen.slice(1).map((at, i) => at - seen[i]!)
      yield* proxy.set({ newLinks: "refuse" })
      yield* proxy.end
      yield* proxied.until("it has failed seven times", Effect.sync(() => seen.length >= 7), "30 seconds")
      const expected = [200, 400, 800, 1600, 3200, 5000]
      for (const [i, gap] of gaps().slice(0, expected.length).entries()) {
        assert.isAtLeast(gap, expected[i]! - 20)
        assert.isBelow(gap, expected[i]! + 300)
      }
      yield* proxy.heal
      yield* reconnected(listener, 1)
      assert.strictEqual(yield* proxied.sessions(applicationName), 1)
      const { millis } = yield* proxied.timed(Effect.andThen(proxy.end, reconnected(listener, 2)))
      assert.isBelow(millis, 200 + 300)
    }).pipe(
      // No jitter: each wait is the longest it may be.
      Effect.provideService(Random.Random, { nextDoubleUnsafe: () => 1, nextIntUnsafe: () => 0 })
    ), 40_000)

  it.effect("jitters: a try may come at once", () =>
    Effect.gen(function*() {
      const { listener, proxy } = yield* makeListener()
      const { accepted } = proxy.counters()
      let lostAt = Number.POSITIVE_INFINITY
      yield* Effect.forkScoped(watchState(listener, ({ status }) => {
        if (status === "reconnecting") lostAt = performance.now()
      }))
      yield* proxy.end
      yield* proxied.until("it tries again", Effect.sync(() => proxy.counters().accepted > accepted))
      // Well before the first try has to come; how long it takes is not at issue here.
      assert.isBelow(performance.now() - lostAt, 150)
      yield* reconnected(listener, 1)
    }).pipe(Effect.provideService(Random.Random, eager)))
})

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("subscribers of the session", (it) => {
  it.effect("come and go without disturbing others", () =>
    Effect.gen(function*() {
      const { listener, proxy } = yield* makeListener()
      const steady = yield* listener.subscribe("steady")
      assert.strictEqual((yield* Queue.take(steady))._tag, "LookAgain")
      const churn = yield* Effect.forkChild(Effect.forEach(
        Array.from({ length: 60 }, (_, i) => `churn_${i % 7}`),
        (channel) =>
          Effect.scoped(Effect.gen(function*() {
            assert.strictEqual((yield* Queue.take(yield* listener.subscribe(channel)))._tag, "LookAgain")
          })),
        { concurrency: 3, discard: true }
      ))
      const heard: Array<string> = []
      for (let i = 0; i < 200; i++) {
        yield* notify("steady", String(i))
        const event = yield* Queue.take(steady)
        heard.push(event._tag === "Notified" ? event.payload : event._tag)
      }
      yield* Fiber.join(churn)
      assert.deepStrictEqual(heard, Array.from({ length: 200 }, (_, i) => String(i)))
      assert.strictEqual(SubscriptionRef.getUnsafe(listener.state).reconnects, 0)
      assert.isAtMost(proxy.counters().accepted, 2, "the session, and the one of its self-test")
    }))

  it.effect("each look first, those that join a channel and those that come back to one, too", () =>
    Effect.gen(function*() {
      const { listener } = yield* makeListener()
      const first = yield* listener.subscribe("news")
      assert.strictEqual((yield* Queue.take(first))._tag, "LookAgain")
      const joined = yield* listener.subscribe("news")
      assert.strictEqual((yield* Queue.take(joined))._tag, "LookAgain")
      // Gone and back before anybody could have noticed.
      const scope = yield* Scope.make()
      yield* Queue.take(yield* Scope.provide(listener.subscribe("brief"), scope))
      yield* Scope.close(scope, Exit.void)
      const back = yield* listener.subscribe("brief")
      assert.strictEqual((yield* Queue.take(back).pipe(Effect.timeout("2 seconds")))._tag, "LookAgain")
      yield* notify("brief", "heard")
      assert.strictEqual(yield* payload(back), "heard")
    }))

  it.effect("that join while the session is away are told once the server listens", () =>
    Effect.gen(function*() {
      const { listener, proxy } = yield* makeListener()
      const channels = ["a", "b", "c"]
      const before = yield* Effect.forEach(channels, (channel) => listener.subscribe(channel))
      for (const events of before) assert.strictEqual((yield* Queue.take(events))._tag, "LookAgain")
      yield* proxy.set({ newLinks: "refuse" })
      yield* proxy.end
      yield* proxied.until(
        "the session is away",
        Effect.map(SubscriptionRef.get(listener.state), ({ status }) => status === "reconnecting")
      )
      const joined = yield* Effect.forEach(channels, (channel) => listener.subscribe(channel))
      for (const events of [...before, ...joined]) assert.strictEqual(yield* Queue.size(events), 0)
      yield* proxy.set({ newLinks: "forward", delay: 30 })
      yield* reconnected(listener, 1)
      // Connected is: listening again, on every channel.
      for (const channel of channels) yield* notify(channel, channel)
      for (const [i, events] of [...before, ...joined].entries()) {
        assert.strictEqual((yield* Queue.take(events))._tag, "LookAgain")
        assert.deepStrictEqual(yield* Queue.take(events), { _tag: "Notified", payload: channels[i % 3]! })
      }
    }))

  it.effect("that are slow lose notifications, but not the fact that some came", () =>
    Effect.gen(function*() {
      const { listener } = yield* makeListener()
      const observer = yield* SqlClient
      const slow = yield* listener.subscribe("flood")
      const quick = yield* listener.subscribe("flood")
      yield* Queue.take(slow)
      let last = ""
      const keepsUp = yield* Effect.forkChild(Effect.forever(Effect.map(Queue.take(quick), (event) => {
        if (event._tag === "Notified") last = event.payload
      })))
      yield* observer`select count(pg_notify('flood', n::text)) from generate_series(1, 10000) n`
      yield* proxied.until("all of it has come", Effect.sync(() => last === "10000"))
      yield* Fiber.interrupt(keepsUp)
      const left = yield* Queue.takeAll(slow)
      assert.isAtMost(left.length, 4096)
      assert.strictEqual(left[0]?._tag, "LookAgain")
      assert.deepStrictEqual(left.at(-1), { _tag: "Notified", payload: "10000" })
      yield* notify("flood", "after")
      assert.deepStrictEqual(yield* Queue.take(slow), { _tag: "Notified", payload: "after" })
    }))
})
