/** Removing what need not be kept any longer, and making the partitions of the days to come. */
import * as Effect from "effect/Effect"
import type { BrokerError } from "../Broker.ts"
import { type Database, float } from "./Database.ts"

/** Rows per batch. */
const batchSize = 1000

const sweepStatement = (schema: string) => `
select removed, partitions from ${schema}.horsies_sweep($1, ${batchSize})`

/** Whether a partition is still attached, and whether somebody has begun to detach it. */
const attachedStatement = (schema: string, partition: string) => `
select i.inhdetachpending from pg_inherits i where i.inhrelid = to_regclass('${schema}.${partition}')`

/** Locks out neither those who end tasks nor those who look them up. */
const detachStatement = (schema: string, partition: string, how: "concurrently" | "finalize") => `
alter table ${schema}.horsies_history detach partition ${schema}.${partition} ${how}`

const dropStatement = (schema: string, partition: string) => `
drop table if exists ${schema}.${partition}`

/** Sweeps until nothing is left that need not be kept. */
export const make = (database: Database, retention: number): Effect.Effect<void, BrokerError> => {
  const { run, schema } = database

  const drop = Effect.fnUntraced(function*(partition: string) {
    const [attached] = yield* run(attachedStatement(schema, partition), [])
    if (attached !== undefined) {
      yield* run(detachStatement(schema, partition, attached[0] === true ? "finalize" : "concurrently"), [])
    }
    yield* run(dropStatement(schema, partition), [])
  })

  return Effect.gen(function*() {
    let removed: number
    do {
      const [row] = yield* run(sweepStatement(schema), [float(retention)])
      removed = row![0] as number
      for (const partition of row![1] as ReadonlyArray<string>) {
        yield* Effect.catch(drop(partition), (error) =>
          // Another process may be doing the same, or the role may not: then it is for them, or for later.
          error.reason._tag === "Unavailable"
            ? Effect.fail(error)
            : Effect.annotateLogs(Effect.logDebug("partition not dropped"), error.annotations))
      }
    } while (removed >= batchSize)
  })
}
