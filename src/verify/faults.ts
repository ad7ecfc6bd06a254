/** Does to a run what its plan says. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import * as Option from "effect/Option"
import * as Semaphore from "effect/Semaphore"
import type { SqlClient } from "effect/sql/SqlClient"
import type { Happened } from "./evidence.ts"
import type { Fault, Planned } from "./plan.ts"
import { isReady, type Kept, runningFor, signal } from "./processes.ts"
import type { Proxy } from "./Proxy.ts"
import type { Server, VerifyError } from "./Server.ts"

/** A worker, and the proxies through which it and its children reach the server. */
export interface Target {
  readonly kept: Kept
  readonly proxies: ReadonlyArray<Proxy>
}

export interface Options {
  readonly workers: ReadonlyArray<Target>
  readonly producers: ReadonlyArray<Target>
  readonly server: Server
  /** A client that goes straight to the server. */
  readonly sql: SqlClient
  /** Milliseconds after which something has to work again after a restart. */
  readonly patience: number
  readonly onFault: (fault: Happened) => Effect.Effect<void>
}

type Mutable<A> = { -readonly [K in keyof A]: A[K] }

/** How long to wait until a fault has a victim, in milliseconds. Others come later then. */
const victimWait = 30_000

const terminate = `
select pg_terminate_backend(pid) from (
  select pid from pg_stat_activity
  where datname = current_database() and application_name = 'horsies-verify' and pid <> pg_backend_pid()
  order by md5(pid || $1)
  limit $2
) backends`

const chosen = <A>(from: ReadonlyArray<A>, choice: number): A | undefined => from[Math.floor(choice * from.length)]

const sum = (numbers: ReadonlyArray<number>) => numbers.reduce((a, b) => a + b, 0)

export const make = Effect.fnUntraced(function*(options: Options) {
  const { onFault, producers, server, sql, workers } = options
  const happened: Array<Mutable<Happened>> = []
  /** Processes that are frozen at present. */
  const frozen = new Set<number>()
  /** Children that were killed. It takes a moment until their parent buries them, longer when that is frozen. */
  const killed = new Set<number>()
  /** Faults that are not over yet. */
  const pending = yield* FiberSet.make<void>()
  /** Faults that are about to begin. */
  const performing = yield* FiberSet.make<void, VerifyError>()

  const record = Effect.fnUntraced(function*(
    what: Happened["what"],
    detail: string,
    hit: { readonly worker?: number | undefined; readonly pids?: ReadonlyArray<number> } = {}
  ) {
    const now = yield* Clock.currentTimeMillis
    const fault: Mutable<Happened> = { what, detail, at: now, until: now, worker: hit.worker, pids: hit.pids }
    happened.push(fault)
    yield* onFault(fault)
    return fault
  })

  /** Says when a fault is over. */
  const over = (fault: Mutable<Happened>, wait: Effect.Effect<unknown>) => {
    fault.until = Number.POSITIVE_INFINITY
    return FiberSet.run(
      pending,
      Effect.map(Effect.andThen(wait, Clock.currentTimeMillis), (now) => void (fault.until = now))
    )
  }

  /** Ends a fault later. */
  const later = (fault: Mutable<Happened>, millis: number, end: Effect.Effect<unknown>) =>
    over(fault, Effect.andThen(Effect.sleep(millis), Effect.uninterruptible(end)))

  /** Waits until the place of a worker is taken again. */
  const replaced = ({ kept }: Target) =>
    Effect.sync(() => isReady(kept.folder, kept.pid())).pipe(
      Effect.tap(() => Effect.sleep(20)),
      Effect.repeat({ until: (ready) => ready }),
      Effect.timeoutOption(options.patience)
    )

  const steady = () =>
    workers.flatMap((target) => {
      const pid = target.kept.pid()
      return pid !== undefined && !frozen.has(pid) && isReady(target.kept.folder, pid) ? [{ target, pid }] : []
    })

  /** Faults that take a whole worker away wait for one, one after another. Others do not wait for them. */
  const inTurn = Semaphore.makeUnsafe(1)

  /** What is there, as soon as it is. */
  const wait = <A>(look: () => A | undefined) =>
    Effect.sync(look).pipe(
      Effect.tap((found) => found === undefined ? Effect.sleep(20) : Effect.void),
      Effect.repeat({ until: (found) => found !== undefined }),
      Effect.timeoutOption(victimWait),
      Effect.map(Option.getOrUndefined)
    )

  /** A worker that may be hit: half of them go on without it. Waits for one. */
  const victim = (choice: number) =>
    wait(() => {
      const found = steady()
      return found.length > workers.length / 2 ? chosen(found, choice) : undefined
    })

  /** A child process of a worker that goes on itself. Waits for one. */
  const childVictim = (choice: number) =>
    wait(() => {
      const children = steady().flatMap(({ pid: parent, target: { kept } }) =>
        runningFor(kept.folder, parent).flatMap((pid) =>
          pid === parent || killed.has(pid) ? [] : [{ pid, of: `child ${pid} of worker ${kept.slot}` }]
        )
      )
      return chosen(children, choice)
    })

  const killProducer = Effect.fnUntraced(function*(choice: number) {
    const target = chosen(producers, choice)
    const pids = target === undefined ? [] : yield* target.kept.kill
    if (pids.length > 0) yield* record("kill", `producer ${target?.kept.slot}`, { pids })
  })

  const killWorker = Effect.fnUntraced(function*(choice: number) {
    const found = yield* victim(choice)
    if (found === undefined) return
    const { kept } = found.target
    const fault = yield* record("kill", `worker ${kept.slot}`, {
      worker: kept.slot,
      pids: [found.pid, ...runningFor(kept.folder, found.pid)]
    })
    yield* kept.kill
    yield* over(fault, replaced(found.target))
  })

  const killChild = Effect.fnUntraced(function*(choice: number) {
    const found = yield* childVictim(choice)
    if (found === undefined || !signal(found.pid, "SIGKILL")) return
    killed.add(found.pid)
    // Its worker goes on, and looks after what the child was running.
    yield* record("kill", found.of, { pids: [found.pid] })
  })

  const freeze = Effect.fnUntraced(function*(whom: "group" | "worker", millis: number, choice: number) {
    const found = yield* victim(choice)
    if (found === undefined) return
    const { pid, target: { kept } } = found
    const to = whom === "group" ? -pid : pid
    if (!signal(to, "SIGSTOP")) return
    frozen.add(pid)
    const how = whom === "group" ? "with its children" : "alone"
    const fault = yield* record("freeze", `worker ${kept.slot} ${how} for ${millis} ms`, {
      worker: kept.slot,
      pids: [pid, ...runningFor(kept.folder, pid)]
    })
    yield* later(fault, millis, Effect.sync(() => frozen.delete(pid) && signal(to, "SIGCONT")))
  })

  const stall = Effect.fnUntraced(function*(millis: number, choice: number) {
    const found = yield* childVictim(choice)
    if (found === undefined || !signal(found.pid, "SIGSTOP")) return
    const fault = yield* record("stall", `${found.of} for ${millis} ms`, { pids: [found.pid] })
    yield* later(fault, millis, Effect.sync(() => signal(found.pid, "SIGCONT")))
  })

  const linksOf = (whom: "worker" | "producers", choice: number) => {
    // One that is about to start has nothing to cut.
    const worker = chosen(steady(), choice)?.target ?? chosen(workers, choice)
    return whom === "producers" || worker === undefined
      ? { name: "producers", worker: undefined, proxies: producers.flatMap(({ proxies }) => proxies) }
      : { name: `worker ${worker.kept.slot}`, worker: worker.kept.slot, proxies: worker.proxies }
  }

  const restart = Effect.fnUntraced(function*(how: "fast" | "immediate", down: number) {
    if (server.restart === undefined) return
    const fault = yield* record("restart", down > 0 ? `${how}, down for ${down} ms` : how)
    fault.until = Number.POSITIVE_INFINITY
    yield* server.restart(how, down)
    yield* Effect.timeoutOption(Effect.eventually(sql`select 1`), options.patience)
    fault.until = yield* Clock.currentTimeMillis
  })

  const perform = (fault: Fault, choice: number): Effect.Effect<void, VerifyError> =>
    Effect.gen(function*() {
      switch (fault.what) {
        case "kill":
          if (fault.whom === "worker") return yield* inTurn.withPermit(killWorker(choice))
          return yield* fault.whom === "child" ? killChild(choice) : killProducer(choice)
        case "freeze":
          return yield* inTurn.withPermit(freeze(fault.whom, fault.millis, choice))
        case "stall":
          return yield* stall(fault.millis, choice)
        case "cut": {
          const { name, proxies, worker } = linksOf(fault.whom, choice)
          const links = sum(yield* Effect.forEach(proxies, ({ cut }) => cut(fault.how)))
          if (links > 0) yield* record("cut", `${fault.how} of ${links} connections of ${name}`, { worker })
          return
        }
        case "swallow": {
          const { name, proxies, worker } = linksOf("worker", choice)
          const links = sum(yield* Effect.forEach(proxies, ({ swallow }) => swallow))
          if (links === 0) return
          const cut = yield* record("cut", `${links} connections of ${name} dead for ${fault.millis} ms`, { worker })
          yield* later(cut, fault.millis, Effect.forEach(proxies, (proxy) => proxy.cut("reset")))
          return
        }
        case "terminate": {
          const gone = yield* Effect.option(sql.unsafe(terminate, [String(choice), fault.backends]))
          if (gone._tag === "Some" && gone.value.length > 0) {
            yield* record("cut", `${gone.value.length} backends terminated`)
          }
          return
        }
        case "delay": {
          const { name, proxies, worker } = linksOf("worker", choice)
          yield* Effect.forEach(proxies, ({ delay }) => delay(fault.late))
          const late = yield* record("delay", `${name} by ${fault.late} ms for ${fault.millis} ms`, { worker })
          yield* later(late, fault.millis, Effect.forEach(proxies, ({ delay }) => delay(0)))
          return
        }
        case "restart":
          return yield* restart(fault.how, fault.down)
      }
    })

  /** Performs the plan from now on, and waits until every fault is over. */
  const run = Effect.fnUntraced(function*(plan: ReadonlyArray<Planned>) {
    const start = performance.now()
    for (const { at, choice, fault } of plan) {
      yield* Effect.sleep(Math.max(0, start + at - performance.now()))
      // A freeze may be waiting for a worker while the server is restarted.
      yield* FiberSet.run(performing, perform(fault, choice))
    }
    yield* Effect.raceFirst(FiberSet.awaitEmpty(performing), FiberSet.join(performing))
    yield* FiberSet.awaitEmpty(pending)
  })

  return { run, happened: happened as ReadonlyArray<Happened> }
})
