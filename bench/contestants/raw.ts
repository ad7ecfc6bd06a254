/**
 * The broker's own SQL functions through the same driver and nothing around them: what remains of `ours` when its
 * client side costs nothing. While a batch is recorded on one connection, the next is claimed on the other.
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { SqlClient } from "effect/sql/SqlClient"
import { lowestPriority } from "../../src/Broker.ts"
import { type Database, floats, fromClient, integers, texts, uuid, uuids } from "../../src/postgres/Database.ts"
import { defaultQueue } from "../../src/Task.ts"
import type { Contestant, Payload } from "../contestant.ts"
import * as Broker from "./broker.ts"

const batchSize = 500

/** A claim needs a worker that is alive. */
const register = `
insert into horsies_heartbeats (worker, started_at, beat_at, reachable_since, lease, pid, host, queues, names, versions)
values ($1, now(), now(), now(), '1 hour', 0, 'raw', '{}', '{}', '{}')`

const claim = `
select id, fence, payload, name, queue, priority, attempt, losses, due_at, waited, version, concurrency_key, timeout,
  expires_in
from horsies_claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`

const finish = `
select id from horsies_finish($1, $2, $3, $4, $5, $6) as id`

const drain = Effect.fnUntraced(function*(database: Database, ran: (n: number) => void) {
  const worker = SecureRandom.uuidV7Unsafe()
  yield* database.run(register, [uuid(worker)])

  const claimed = database.run(claim, [
    uuid(worker),
    texts([defaultQueue]),
    integers([batchSize]),
    integers([0]),
    texts([""]),
    integers([1]),
    texts([Broker.Noop._tag]),
    integers([1]),
    texts([""]),
    integers([0]),
    floats([null]),
    integers([lowestPriority])
  ])

  let batch = yield* claimed
  while (batch.length > 0) {
    for (const [, , payload] of batch) ran((JSON.parse(payload as string) as Payload).n)
    const finished = database.run(finish, [
      uuid(worker),
      uuids(batch.map(([id]) => id)),
      integers(batch.map(([, fence]) => fence)),
      floats(batch.map(() => 0)),
      texts(batch.map(() => null)),
      texts(batch.map(() => "null"))
    ])
    const [next] = yield* Effect.all([claimed, finished], { concurrency: 2 })
    batch = next
  }
})

export const contestant: Contestant = {
  sender: Broker.sender,
  worker: Effect.fnUntraced(function*(url, ran) {
    const client = yield* Layer.build(PgClient.layer({ url: Redacted.make(url), maxConnections: 2 }))
    const database = yield* Effect.provideContext(Effect.map(SqlClient, (sql) => fromClient(sql, "public")), client)
    yield* Effect.forkScoped(Effect.tapCause(drain(database, ran), Effect.logError))
  })
}
