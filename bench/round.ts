/** One round: one contestant, one new database, one measurement that ends when every completion is on disk. */
import type { PgClient } from "@effect/sql-pg/PgClient"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { now } from "./clock.ts"
import type { Name } from "./contestant.ts"
import type { Processes } from "./processes.ts"
import * as ProcessorTime from "./processorTime.ts"
import * as Server from "./server.ts"
import { stores } from "./stores.ts"

/** A contestant lost tasks, ran one twice or did not get to the end. */
export class WrongResult extends Schema.TaggedError<WrongResult>()("WrongResult", {
  contestant: Schema.String,
  problems: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return `${this.contestant}: ${this.problems.join("; ")}`
  }
}

export interface Round {
  readonly contestant: Name
  readonly tasksPerSecond: number
  /** Milliseconds from the start of the clock to the first call of a handler. */
  readonly untilFirst: number
  /** Tasks per second at which the sender was done. */
  readonly sentPerSecond: number
  /** Processor time of the worker's process and of the server, in microseconds per task. */
  readonly workerCpu: number
  readonly serverCpu: number
  /** Processors that were busy with something else; a lot of it spoils the round. */
  readonly others: number
  /** Bytes of write-ahead log per task. */
  readonly wal: number
}

export interface Plan {
  readonly tasks: number
  /** Sends the tasks before the worker starts, or while it runs. */
  readonly send: "before" | "after"
}

/** Called at the end of a measurement, with the database still there. */
export type Inspect = (result: {
  readonly contestant: Name
  readonly sql: PgClient
  readonly profile: string | undefined
}) => Effect.Effect<void, unknown>

/** How long a worker without work is left alone, so that its statements are planned for an empty table. */
const idleTime = Duration.seconds(1)

const patience = Duration.minutes(3)

export const run = Effect.fnUntraced(function*(processes: Processes, plan: Plan, inspect: Inspect | undefined) {
  const { name: contestant, sender, worker } = processes
  const { tasks } = plan
  const { drained, problems } = stores[contestant]
  const { sql, url } = yield* Server.database(`bench_${contestant.toLowerCase()}`)
  const one = <A>(statement: string) => Effect.map(sql.unsafe(statement).values, ([row]) => row?.[0] as A)
  const usage = Effect.gen(function*() {
    return {
      wal: Number(yield* one<string>("select (pg_current_wal_insert_lsn() - '0/0')::text")),
      server: yield* ProcessorTime.ofServer,
      machine: ProcessorTime.ofMachine(),
      bench: ProcessorTime.ofProcess(),
      at: now()
    }
  })

  yield* sender.Prepare({ url })
  // What the measurement writes to the log must not depend on when the last checkpoint was.
  yield* sql`checkpoint`
  const before = plan.send === "before" ? yield* sender.Send({ tasks }) : undefined
  // The plans of a table in use; without sends before, those of a table that nobody has ever seen filled.
  if (before !== undefined) yield* sql`vacuum (analyze)`
  // Prepares the statement and reads the catalog.
  yield* one(drained)

  const usedBefore = yield* usage
  const started = yield* worker.Start({ url, tasks, profile: inspect !== undefined })
  if (before === undefined) yield* Effect.sleep(idleTime)
  const sent = before ?? (yield* sender.Send({ tasks }))
  const end = yield* Effect.timeoutOption(
    Effect.gen(function*() {
      const { firstAt } = yield* worker.Ran()
      while (!(yield* one<boolean>(drained))) yield* Effect.sleep(1)
      return { firstAt, endedAt: now() }
    }),
    patience
  )
  const used = yield* usage
  const seen = yield* worker.Close()
  yield* sender.Close()

  const wrong = (yield* sql.unsafe(problems, problems.includes("$1") ? [tasks] : []).values).map(([text]) =>
    String(text)
  )
  if (seen.problem !== undefined) wrong.unshift(seen.problem)
  if (end._tag === "None") wrong.unshift(`not done after ${Duration.format(patience)}`)
  if (end._tag === "None" || wrong.length > 0) return yield* new WrongResult({ contestant, problems: wrong })
  if (inspect !== undefined) yield* inspect({ contestant, sql, profile: seen.profile })

  const { endedAt, firstAt } = end.value
  const startedAt = before === undefined ? sent.startedAt : started.startedAt
  const serverCpu = used.server - usedBefore.server
  const ownCpu = serverCpu + seen.cpu + used.bench - usedBefore.bench + (before === undefined ? sent.cpu : 0)
  const round: Round = {
    contestant,
    tasksPerSecond: tasks * 1000 / (endedAt - startedAt),
    untilFirst: firstAt - startedAt,
    sentPerSecond: tasks * 1000 / (sent.endedAt - sent.startedAt),
    workerCpu: seen.cpu * 1000 / tasks,
    serverCpu: serverCpu * 1000 / tasks,
    wal: (used.wal - usedBefore.wal) / tasks,
    // The system counts processor time in ticks, so little of it can come out as less than nothing.
    others: Math.max(0, used.machine - usedBefore.machine - ownCpu) / (used.at - usedBefore.at)
  }
  return round
}, Effect.scoped)
