/** Who is declared dead, and when, as outages of the server tell of themselves by the heartbeats that are missing. */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import { Broker } from "../../src/Broker.ts"
import { reachableSince } from "../../src/schema/0001_tasks/tables.ts"
import { advance, heartbeat, lease, recover, startWorker, uuid } from "../contract/Harness.ts"
import * as PostgresHarness from "../contract/postgresHarness.ts"

/** The function of the schema: a test database has one that knows of no outage. */
const real = Effect.flatMap(PostgresHarness.TestSql, (sql) => sql.unsafe(reachableSince("public")))

/** Nobody is left from another test. */
const alone = Effect.gen(function*() {
  const sql = yield* PostgresHarness.TestSql
  yield* sql`delete from horsies_heartbeats`
  yield* real
})

/** Time in which these workers beat, and nobody else. */
const passes = Effect.fnUntraced(function*(leases: number, ...alive: ReadonlyArray<string>) {
  for (let half = 0; half < leases * 2; half++) {
    yield* advance(lease / 2)
    yield* Effect.forEach(alive, heartbeat)
  }
  yield* advance(1)
})

const isAlive = (worker: string) => Effect.map(heartbeat(worker), ({ alive }) => alive)

layer(PostgresHarness.broker, { excludeTestServices: true })("a worker that is silent", (it) => {
  it.effect("is dead as soon as its lease has passed while others beat", () =>
    Effect.gen(function*() {
      yield* alone
      const steady = yield* startWorker
      yield* passes(2, steady)
      const silent = yield* startWorker
      yield* passes(0.5, steady)
      assert.strictEqual((yield* recover).workers, 0)
      yield* passes(0.5, steady)
      assert.strictEqual((yield* recover).workers, 1)
      assert.deepStrictEqual([yield* isAlive(silent), yield* isAlive(steady)], [false, true])
    }))

  it.effect("has a lease to come back after an outage, counted from the first who does", () =>
    Effect.gen(function*() {
      yield* alone
      const first = yield* startWorker
      yield* passes(2, first)
      const [back, gone] = [yield* startWorker, yield* startWorker]
      yield* advance(2 * lease)
      // Nobody has shown yet that the outage is over.
      assert.strictEqual((yield* recover).workers, 0)
      assert.isTrue(yield* isAlive(first))
      yield* passes(0.5, first)
      assert.strictEqual((yield* recover).workers, 0)
      assert.isTrue(yield* isAlive(back))
      const { nextIn } = yield* Broker.use((broker) => broker.recover)
      assert.isAtMost(nextIn!, lease / 2)
      assert.isAbove(nextIn!, lease / 2 - 5000)
      yield* passes(0.5, first)
      assert.strictEqual((yield* recover).workers, 1)
      assert.deepStrictEqual([yield* isAlive(back), yield* isAlive(gone)], [true, false])
    }))

  it.effect("has a lease to come back when the first worker starts after a long time", () =>
    Effect.gen(function*() {
      yield* alone
      yield* startWorker
      yield* advance(10 * lease)
      const first = yield* startWorker
      yield* passes(0.5, first)
      assert.strictEqual((yield* recover).workers, 0)
      yield* passes(0.5, first)
      assert.strictEqual((yield* recover).workers, 1)
    }))

  it.effect("has no lease more when heartbeats were missing for less than three quarters of one", () =>
    Effect.gen(function*() {
      for (const [gap, dead] of [[0.74, 1], [0.76, 0]] as const) {
        yield* alone
        const steady = yield* startWorker
        yield* passes(2, steady)
        yield* startWorker
        for (let i = 0; i < 2; i++) yield* Effect.andThen(advance(lease * gap), heartbeat(steady))
        assert.strictEqual((yield* recover).workers, dead, `gaps of ${gap} leases`)
      }
    }))

  it.effect("is no outage for one that beats less often than its short lease would have it", () =>
    Effect.gen(function*() {
      yield* alone
      const slow = yield* startWorker
      const short = { id: uuid(), lease: lease * 0.4, host: "h", pid: 1, handles: [] }
      yield* Broker.use((broker) => broker.register(short))
      // The first gap counts as one, by its lease; from then on its lease has passed.
      yield* passes(1, slow)
      assert.strictEqual((yield* recover).workers, 1)
      assert.isFalse(yield* isAlive(short.id))
    }))

  it.effect("stays alive when it beats while it is about to be declared dead", () =>
    Effect.gen(function*() {
      yield* alone
      const sql = yield* PostgresHarness.TestSql
      const silent = yield* startWorker
      yield* advance(lease + 1)
      // What the recovery asks for after it has taken its snapshot, and before it locks what it has found.
      yield* sql`create or replace function horsies_reachable_since() returns timestamptz language plpgsql stable
        as $$ begin perform pg_sleep(1); return '-infinity'; end $$`
      const recovering = yield* Effect.forkChild(recover)
      yield* Effect.repeat(
        sql`select from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()`,
        {
          until: (rows) => rows.length > 0,
          schedule: Schedule.spaced("5 millis")
        }
      )
      yield* sql`update horsies_heartbeats set beat_at = horsies_now() where worker = ${silent}`
      assert.strictEqual((yield* Fiber.join(recovering)).workers, 0)
      assert.deepStrictEqual(yield* sql`select died_at from horsies_heartbeats`, [{ died_at: null }])
    }))

  it.effect("is dead in time although a clock was ahead for a while", () =>
    Effect.gen(function*() {
      yield* alone
      const sql = yield* PostgresHarness.TestSql
      const steady = yield* startWorker
      yield* advance(3_600_000)
      const ahead = yield* startWorker
      yield* heartbeat(steady)
      yield* sql`update horsies_test.test_clock set at = at - interval '1 hour'`
      yield* heartbeat(steady)
      yield* passes(1, steady)
      yield* startWorker
      assert.strictEqual((yield* recover).workers, 1)
      assert.isFalse(yield* isAlive(ahead))
      yield* passes(1, steady)
      assert.strictEqual((yield* recover).workers, 1)
      assert.deepStrictEqual(
        yield* sql`select reachable_since <= horsies_now() as past from horsies_heartbeats where worker = ${steady}`,
        [{ past: true }]
      )
    }))
})
