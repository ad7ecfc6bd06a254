/**
 * The torture program: producers and workers in processes of their own, faults from a seed, and a checker that looks at
 * what is left.
 *
 * While the faults last, producers send, and repeat under the same id what is unclear. Then the faults stop, everything
 * drains, each idle worker is sent a few tasks to see that it still hears of them, and the evidence is checked.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import type * as Redacted from "effect/Redacted"
import * as References from "effect/References"
import type * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import type { ChildProcess } from "node:child_process"
import { randomBytes } from "node:crypto"
import { mkdirSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Broker, BrokerError } from "../Broker.ts"
import * as PostgresBroker from "../PostgresBroker.ts"
import * as PostgresConfig from "../PostgresConfig.ts"
import { check, type Report } from "./checker.ts"
import type { Bounds, Evidence, Happened, Probe } from "./evidence.ts"
import * as Faults from "./faults.ts"
import * as Gathering from "./gathering.ts"
import { plan, type Planned } from "./plan.ts"
import * as Processes from "./processes.ts"
import * as Proxy from "./Proxy.ts"
import * as Server from "./Server.ts"
import * as Settings from "./Settings.ts"
import { effectsTable, probe } from "./tasks.ts"

export { VerifyError } from "./Server.ts"

export interface Options {
  /** How long tasks are sent and faults happen. */
  readonly seconds: number
  readonly seed: number
  /** Worker processes, at least 2. */
  readonly workers: number
  /** Child processes of each; 0 when workers run handlers themselves. */
  readonly children: number
  /** Tasks per second that are sent. */
  readonly rate: number
  /** The share of handlers that take long enough to be hit by a fault. Default: 0.01. */
  readonly long?: number | undefined
  /** The server. Default: an embedded one. */
  readonly databaseUrl?: Redacted.Redacted | undefined
  /** A pooler in front of it, in transaction mode. */
  readonly poolerUrl?: Redacted.Redacted | undefined
  /** Restarts the server of `databaseUrl`. */
  readonly restartCommand?: string | undefined
  /** The faults. Default: those of the seed. */
  readonly plan?: ReadonlyArray<Planned> | undefined
  /** Done to the schema before anything starts: how the checker itself is tested. */
  readonly sabotage?: ((schema: string) => Effect.Effect<unknown, SqlError, SqlClient>) | undefined
  readonly onFault: (fault: Happened, from: number) => Effect.Effect<void>
  readonly onStep: (step: string) => Effect.Effect<void>
}

export interface Result {
  readonly report: Report
  readonly evidence: Evidence
  /** When the faults began, in milliseconds since the epoch. */
  readonly from: number
  /** Where the files of the processes are, when a rule was broken. */
  readonly folder: string | undefined
}

const producers = 2
const lease = 3000
const heartbeatInterval = 1000

const bounds: Bounds = {
  lease,
  heartbeatInterval,
  // The last heartbeat before a death renews the lease, and the next look after its end finds it. The rest is for a
  // machine that is as busy as it can be.
  recovery: lease + heartbeatInterval + 1000,
  // Half of what it takes until an idle worker looks without having heard of anything.
  start: 2500
}

/** How long processes may take to start. */
const patience = "120 seconds"

/** Tasks that may wait before producers do. */
const mostWaiting = 12_000

/** Tasks that are sent to each idle worker at the end. */
const probes = 5

/** How long everything may take to drain: as many tasks as may wait, on a machine that is busy. */
const drainPatience = "300 seconds"

/** Waits until something holds. Whether it did in time. */
const until = <E, R>(condition: Effect.Effect<boolean, E, R>, limit: Duration.Input = patience) =>
  Effect.option(condition).pipe(
    Effect.tap(() => Effect.sleep("100 millis")),
    Effect.repeat({ until: (holds) => holds._tag === "Some" && holds.value }),
    Effect.timeoutOption(limit),
    Effect.map((within) => within._tag === "Some")
  )

/** A folder for the files of the processes. It is removed unless it is worth a look. */
const folder = Effect.acquireRelease(
  Effect.sync(() => ({ path: mkdtempSync(join(tmpdir(), "horsies-verify-")), keep: false })),
  ({ keep, path }) => Effect.sync(() => keep ? undefined : rmSync(path, { recursive: true, force: true }))
)

/** Sends tasks to idle workers. */
const probeWorkers = Effect.fnUntraced(function*(slots: ReadonlyArray<number>) {
  const found: Array<Probe> = []
  const probeOne = (worker: number) =>
    Effect.gen(function*() {
      const task = yield* Effect.mapError(
        probe(worker).send({}),
        ({ message }) => new Server.VerifyError({ message: `a task could not be sent to an idle worker: ${message}` })
      )
      found.push({ task: task.id, worker, at: yield* Clock.currentTimeMillis })
      yield* Effect.ignore(task.awaitFor("10 seconds"))
      // Long enough to be idle again, and each time at another moment between two looks.
      yield* Effect.sleep(150 + 61 * found.length % 400)
    })
  yield* Effect.forEach(slots, (slot) => Effect.repeat(probeOne(slot), { times: probes - 1 }), {
    concurrency: "unbounded",
    discard: true
  })
  return found
})

/** The processes and their proxies. */
const processes = Effect.fnUntraced(function*(
  server: Server.Server,
  root: string,
  what: "worker" | "producer",
  count: number,
  settings: Pick<Settings.Settings, "schema" | "children" | "seed" | "rate" | "long">
) {
  const found: Array<Faults.Target> = []
  for (let slot = 0; slot < count; slot++) {
    const folder = join(root, `${what}-${slot}`)
    mkdirSync(folder)
    const direct = yield* Proxy.make(server.direct.address)
    const pooler = server.pooler === undefined ? undefined : yield* Proxy.make(server.pooler.address)
    const session = server.direct.through(direct.port)
    yield* Settings.write(folder, {
      ...settings,
      slot,
      lease,
      heartbeatInterval,
      ...(server.pooler === undefined || pooler === undefined
        ? { databaseUrl: session }
        : { databaseUrl: server.pooler.through(pooler.port), sessionDatabaseUrl: session })
    })
    found.push({
      kept: yield* Processes.keep(what, slot, folder),
      proxies: pooler === undefined ? [direct] : [direct, pooler]
    })
  }
  return found
})

const isReady = ({ kept }: Faults.Target) => Processes.isReady(kept.folder, kept.pid())

const allReady = (processes: ReadonlyArray<Faults.Target>) => Effect.sync(() => processes.every(isReady))

/** Ends processes. Gives those that did not end in time. */
const stopped = (
  what: string,
  targets: ReadonlyArray<Faults.Target>,
  ask: (process: ChildProcess) => void,
  millis: number
) =>
  Effect.forEach(
    targets,
    ({ kept }) =>
      Effect.map(
        kept.stop(ask, millis),
        (inTime) => inTime ? [] : [`${what} ${kept.slot} has not ended within ${millis / 1000} s; see ${kept.folder}`]
      ),
    { concurrency: "unbounded" }
  ).pipe(Effect.map((hung) => hung.flat()))

/** Processes that have ended by themselves. */
const crashes = (what: string, targets: ReadonlyArray<Faults.Target>) =>
  targets.flatMap(({ kept }) => {
    const { count, last } = kept.failures()
    return count === 0
      ? []
      : [`${what} ${kept.slot} has ended by itself ${count} times, the last time with ${last}; see ${kept.folder}`]
  })

/** A client that goes straight to the server, and the tables. */
const control = Effect.fnUntraced(function*(url: Redacted.Redacted, schema: string) {
  const context = yield* Layer.build(
    Layer.provide(
      PostgresBroker.layer,
      PostgresConfig.layer({ databaseUrl: url, schema, poolSize: 4, applicationName: "horsies-verify-control" })
    )
    // That its own connections are lost is no news.
  ).pipe(Effect.provideService(References.MinimumLogLevel, "Error"))
  const sql = Context.get(context, SqlClient)
  yield* sql.unsafe(`create table ${effectsTable(schema)} (task uuid not null, fence integer not null)`)
  return context
})

/** Holds producers back while more tasks wait than workers can work off soon. */
const holdBack = (sql: SqlClient, schema: string, producers: ReadonlyArray<Faults.Target>) =>
  Gathering.backlog(sql, schema, mostWaiting).pipe(
    Effect.map((count) => {
      for (const { kept } of producers) kept.tell(count < mostWaiting ? "go" : "pause")
    }),
    Effect.ignore,
    Effect.andThen(Effect.sleep("500 millis")),
    Effect.forever
  )

/** Runs it. Fails when it cannot be run; what it finds is in its result. */
export const run = (
  options: Options
): Effect.Effect<Result, Server.VerifyError | BrokerError | SqlError | PostgresConfig.PostgresConfigError> =>
  Effect.scoped(runScoped(options))

const runScoped = Effect.fnUntraced(function*(
  options: Options
): Effect.fn.Return<
  Result,
  Server.VerifyError | BrokerError | SqlError | PostgresConfig.PostgresConfigError,
  Scope.Scope
> {
  const { children, onStep, seconds, seed } = options
  const server = yield* Server.make({
    databaseUrl: options.databaseUrl,
    poolerUrl: options.poolerUrl,
    restartCommand: options.restartCommand
  })
  const schema = `horsies_verify_${randomBytes(4).toString("hex")}`
  const files = yield* folder
  const context: Context.Context<Broker | SqlClient> = yield* control(server.url, schema)
  const sql = Context.get(context, SqlClient)
  yield* Effect.addFinalizer(() =>
    files.keep
      ? Effect.void
      : Effect.ignore(Effect.timeout(sql.unsafe(`drop schema ${schema} cascade`), "10 seconds"))
  )
  if (options.sabotage !== undefined) yield* Effect.provideContext(options.sabotage(schema), context)
  const settings = { schema, children, seed, rate: options.rate / producers, long: options.long ?? 0.01 }

  const workers = yield* processes(server, files.path, "worker", options.workers, settings)
  const senders = yield* processes(server, files.path, "producer", producers, settings)
  if (!(yield* until(allReady([...workers, ...senders])))) {
    files.keep = true
    return yield* new Server.VerifyError({ message: `the processes do not start; see ${files.path}` })
  }
  const from = yield* Clock.currentTimeMillis
  yield* onStep(`${options.workers} workers with ${children} children each; faults for ${seconds} s, seed ${seed}`)
  const faults = yield* Faults.make({
    workers,
    producers: senders,
    server,
    sql,
    applicationName: schema,
    patience: 60_000,
    onFault: (fault) => options.onFault(fault, from)
  })
  const planned = options.plan ??
    plan({
      seed,
      seconds,
      lease,
      restarts: server.restart !== undefined,
      outages: server.outages,
      children: children > 0
    })
  const holding = yield* Effect.forkScoped(holdBack(sql, schema, senders))
  yield* faults.run(planned)
  const left = from + seconds * 1000 - (yield* Clock.currentTimeMillis)
  if (left > 0) yield* Effect.sleep(left)

  yield* onStep("faults are over; waiting for everything to end")
  yield* Fiber.interrupt(holding)
  const hung = yield* stopped("producer", senders, (process) => void process.send("stop"), 60_000)
  const isIdle = Effect.map(Gathering.isBusy(sql, schema), (busy) => !busy)
  const drained = yield* until(isIdle, drainPatience)
  if (!drained) hung.push(`tasks still wait ${drainPatience} after the last fault`)
  yield* until(allReady(workers))
  const absent = workers.filter((worker) => !isReady(worker))
  hung.push(...absent.map(({ kept }) => `worker ${kept.slot} has not started again; see ${kept.folder}`))
  const probed = drained
    ? yield* Effect.provideContext(probeWorkers(workers.map(({ kept }) => kept.slot)), context)
    : []
  yield* until(isIdle)
  hung.push(...(yield* stopped("worker", workers, (process) => process.kill("SIGTERM"), 15_000)))

  yield* onStep("checking")
  const evidence: Evidence = {
    seed,
    workers: options.workers,
    ...Gathering.fromProducers(senders.map(({ kept }) => kept.folder)),
    runs: Gathering.fromWorkers(workers.map(({ kept }) => kept.folder)),
    ...(yield* Gathering.fromTables(sql, schema)),
    faults: faults.happened,
    missing: faults.missing(planned),
    crashed: [...crashes("worker", workers), ...crashes("producer", senders)],
    hung,
    probes: probed,
    bounds
  }
  const report = check(evidence)
  files.keep = report.violations.length > 0
  return { report, evidence, from, folder: files.keep ? files.path : undefined }
})
