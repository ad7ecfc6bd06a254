/** TCP keepalives on all three kinds of connection: what the socket is told, and what the kernel then does. */
import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import * as Redacted from "effect/Redacted"
import { SqlClient } from "effect/sql/SqlClient"
import { existsSync, readFileSync } from "node:fs"
import * as Net from "node:net"
import { vi } from "vitest"
import * as PooledSql from "../../src/connection/PooledSql.ts"
import { SessionListener } from "../../src/connection/SessionListener.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import * as proxied from "../faults/proxied.ts"
import { TestDatabase } from "../support/TestDatabase.ts"

/** The seconds left on the keepalive timers of TCP connections, by their local and remote ports. */
const keepaliveTimers = () => {
  const timers = new Map<string, number>()
  for (const line of readFileSync("/proc/net/tcp", "utf8").split("\n").slice(1)) {
    const [, local, remote, , , timer] = line.trim().split(/\s+/)
    if (local === undefined || remote === undefined || timer === undefined) continue
    const [kind, left] = timer.split(":")
    const port = (address: string) => Number.parseInt(address.split(":")[1]!, 16)
    if (kind === "02") timers.set(`${port(local)} ${port(remote)}`, Number.parseInt(left!, 16) / 100)
  }
  return timers
}

/** One connection of each kind, under these settings. Succeeds with the ports of both ends, and a client. */
const connectAll = Effect.fnUntraced(function*(applicationName: string, settings: proxied.Settings) {
  const { url } = yield* TestDatabase
  const config = PostgresConfig.layer({ databaseUrl: url, ssl: "disable", applicationName, poolSize: 1, ...settings })
  const build = <A, E>(layer: Layer.Layer<A, E, PostgresConfig.PostgresConfig>) =>
    Layer.build(Layer.fresh(Layer.provide(layer, config)))
  const sql = Context.get(yield* build(PooledSql.layer), SqlClient)
  yield* Context.get(yield* build(PooledSql.layerChild), SqlClient)`select 1`
  const listener = Context.get(yield* build(SessionListener.layer), SessionListener)
  yield* Queue.take(yield* listener.subscribe("news"))
  const observer = yield* SqlClient
  const ports = yield* observer<{ readonly port: number }>`
    select client_port as port from pg_stat_activity where application_name = ${applicationName}`
  return { sql, clients: ports.map(({ port }) => port), server: Number(new URL(Redacted.value(url)).port) }
})

const show = (sql: SqlClient) =>
  sql`select current_setting('tcp_keepalives_idle') as idle, current_setting('tcp_keepalives_interval') as interval,
    current_setting('tcp_keepalives_count') as count`

/** Node can set interval and count from 24.19. */
const canSetAll = Net.Socket.prototype.setKeepAlive.length === 4

layer(proxied.observer, { excludeTestServices: true, timeout: "30 seconds" })("TCP keepalives", (it) => {
  it.effect("are set on pool, session and child connections, at both ends", () =>
    Effect.gen(function*() {
      const set = vi.spyOn(Net.Socket.prototype, "setKeepAlive")
      yield* Effect.addFinalizer(() => Effect.sync(() => set.mockRestore()))
      const { clients, server, sql } = yield* connectAll("keepalives_set", {
        tcpKeepalivesIdle: "7 seconds",
        tcpKeepalivesInterval: "3 seconds",
        tcpKeepalivesCount: 2
      })
      assert.strictEqual(clients.length, 3)
      const told = set.mock.contexts
        .map((socket, i) => [(socket as Net.Socket).localPort!, set.mock.calls[i]] as const)
        .filter(([port]) => clients.includes(port))
      assert.strictEqual(told.length, 3)
      for (const [, args] of told) assert.deepStrictEqual(args as ReadonlyArray<unknown>, [true, 7000, 3000, 2])
      assert.isTrue(canSetAll, "this runtime takes interval and count")

      assert.deepStrictEqual(yield* show(sql), [{ idle: "7", interval: "3", count: "2" }])
      if (existsSync("/proc/net/tcp")) {
        const ends = clients.flatMap((client) => [`${client} ${server}`, `${server} ${client}`])
        // Another timer runs until the last answer is acknowledged.
        yield* proxied.until(
          "both ends wait for their first probe, which is due within 7 seconds",
          Effect.sync(() => {
            const timers = keepaliveTimers()
            return ends.every((end) => (timers.get(end) ?? 0) > 2 && (timers.get(end) ?? 8) <= 7)
          })
        )
      }
    }))

  it.effect("tcpKeepalives: false leaves sockets and server as they are", () =>
    Effect.gen(function*() {
      const set = vi.spyOn(Net.Socket.prototype, "setKeepAlive")
      yield* Effect.addFinalizer(() => Effect.sync(() => set.mockRestore()))
      const { clients, server, sql } = yield* connectAll("keepalives_unset", { tcpKeepalives: false })
      const observer = yield* SqlClient
      assert.strictEqual(clients.length, 3)
      assert.isFalse(set.mock.contexts.some((socket) => clients.includes((socket as Net.Socket).localPort ?? 0)))
      assert.deepStrictEqual(yield* show(sql), yield* show(observer))
      if (existsSync("/proc/net/tcp")) {
        const timers = keepaliveTimers()
        for (const client of clients) assert.isFalse(timers.has(`${client} ${server}`))
      }
    }))
})
