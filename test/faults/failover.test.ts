import { assert, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { SqlClient } from "effect/sql/SqlClient"
import { fromSqlError } from "../../src/connection/failure.ts"
import type * as PostgresConfig from "../../src/PostgresConfig.ts"
import { eventually } from "../support/eventually.ts"
import * as PrimaryStandby from "../support/PrimaryStandby.ts"
import { start } from "../support/worker.ts"
import * as Brokers from "./brokers.ts"
import * as Load from "./load.ts"

/** A worker and producers, as two processes would have them, over two servers. */
const setUp = Effect.fnUntraced(function*(options?: Partial<PostgresConfig.Options>) {
  const servers = yield* PrimaryStandby.make
  const settings = { databaseUrl: servers.url, applicationName: "horsies", ...options }
  const worker = yield* Brokers.make(settings)
  const producer = yield* Brokers.make(settings)
  const runs: Load.Runs = new Map()
  yield* Effect.provide(start(Load.handler(runs)), worker)
  const load = yield* Effect.provide(Load.start(4), producer)
  yield* Effect.provide(load.progress(100), producer)
  return { ...servers, load, producer, runs }
})

/** Wake-ups and results are pushed between the processes again: both sessions listen where it is written. */
const assertPushed = Load.Double.send({ n: -1 }).pipe(
  Effect.flatMap((handle) => handle.await),
  // Without a push, the worker looks after 5 seconds and so does who awaits.
  Effect.timeout("3 seconds"),
  Effect.map((result) => assert.strictEqual(result, -2))
)

/** Nobody of ours stays connected, but for a producer's connection for migrations: it is unused, and closed after a while. */
const assertLeft = (node: PrimaryStandby.Node) =>
  node.until(`not exists (
    select from pg_stat_activity where application_name = 'horsies' and query not like '%horsies_prepare_history%'
  )`)

const outage = (load: Load.Load) => {
  const enough = load.failures.length + 20
  return eventually("20 sends that failed", () => load.failures.length >= enough)
}

it.live(
  "the primary is killed under load: what was acknowledged ends once, on the standby that was promoted",
  () =>
    Effect.gen(function*() {
      const { load, primary, producer, runs, standby } = yield* setUp()
      yield* primary.kill
      yield* outage(load)
      yield* standby.promote
      const promotedAt = performance.now()
      const before = load.acknowledged.length
      yield* load.progress(100)
      yield* Effect.provide(load.settle, producer)
      yield* Effect.provide(assertPushed, producer)

      const after = load.acknowledged.slice(before)
      const run = Math.min(...after.map(({ n }) => runs.get(n)!)) - promotedAt
      // The worker's pauses between tries reach five seconds in a longer outage than this.
      assert.isBelow(run, 8000)
    }),
  60_000
)

it.live("servers change places, and back again with a crash", () =>
  Effect.gen(function*() {
    const { load, primary, producer, standby } = yield* setUp()
    yield* primary.stop("fast")
    yield* standby.promote
    yield* primary.follow(standby)
    yield* primary.start
    yield* load.progress(100)
    yield* assertLeft(primary)
    yield* primary.until("exists (select from pg_stat_wal_receiver where status = 'streaming')")

    yield* standby.query("alter system set synchronous_standby_names = '*'")
    yield* standby.query("select pg_reload_conf()")
    yield* standby.until("exists (select from pg_stat_replication where sync_state = 'sync')")
    yield* load.progress(100)
    yield* standby.kill
    yield* primary.promote
    yield* load.progress(100)
    yield* Effect.provide(load.settle, producer)
    yield* Effect.provide(assertPushed, producer)
  }), 60_000)

/** The old primary goes on, but its sessions may only read. */
const fence = Effect.fnUntraced(function*(primary: PrimaryStandby.Node) {
  yield* primary.query("alter system set default_transaction_read_only = on")
  yield* primary.query("select pg_reload_conf()")
  yield* primary.until("current_setting('default_transaction_read_only')::bool")
})

it.live("a server that takes no writes any more is left by every connection", () =>
  Effect.gen(function*() {
    const { load, primary, producer, standby } = yield* setUp({
      tcpKeepalivesIdle: "1 second",
      tcpKeepalivesInterval: "1 second",
      tcpKeepalivesCount: 1
    })
    yield* fence(primary)
    yield* outage(load)
    yield* standby.promote
    yield* load.progress(100)
    yield* Effect.provide(load.settle, producer)
    yield* assertLeft(primary)
    yield* Effect.provide(assertPushed, producer)
  }), 60_000)

it.live("one refused write is enough for the whole pool to leave", () =>
  Effect.gen(function*() {
    const { primary, standby, url } = yield* PrimaryStandby.make
    const sql = Context.get(yield* Brokers.make({ databaseUrl: url }), SqlClient)
    const tenTimes = <A, E>(effect: Effect.Effect<A, E>) =>
      Effect.all(Array.from({ length: 10 }, () => effect), { concurrency: "unbounded" })
    yield* sql`create table counted (n int)`
    yield* tenTimes(sql`select pg_sleep(0.1)`)
    yield* fence(primary)
    yield* standby.promote
    const error = fromSqlError(yield* Effect.flip(sql.withTransaction(sql`insert into counted values (0)`)))
    assert.deepInclude(error.reason, { _tag: "Unavailable", sqlState: "25006" })
    yield* tenTimes(sql`insert into counted select 1 from pg_sleep(0.1)`)
    assert.deepStrictEqual(yield* standby.query("select sum(n)::int from counted"), [{ sum: 10 }])
  }), 60_000)
