/** Does to a run what its plan says. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import * as Option from "effect/Option"
import * as Semaphore from "effect/Semaphore"
import type { SqlClient } from "effect/sql/SqlClient"
import type { Happened } from "./evidence.ts"
import { type Fault, type Frozen, kindOf, type Planned } from "./plan.ts"
import { isReady, type Kept, runningFor, signal } from "./processes.ts"
import type { Cut, Proxy } from "./Proxy.ts"
import { type Server, VerifyError } from "./Server.ts"

/** A worker, and the proxies through which it and its children reach the server. */
export interface Target {
  readonly kept: Kept
  readonly proxies: ReadonlyArray<Proxy>
}

export interface Options {
  readonly workers: ReadonlyArray<Target>
  readonly producers: ReadonlyArray<Target>
  readonly server: Server
  /** What the connections of workers and producers are called. */
  readonly applicationName: string
  /** A client that goes straight to the server. */
  readonly sql: SqlClient
  /** Milliseconds after which something has to work again after a restart. */
  readonly patience: number
  readonly onFault: (fault: Happened) => Effect.Effect<void>
}

type Mutable<A> = { -readonly [K in keyof A]: A[K] }

/** How long to wait until a fault has a victim, in milliseconds. Others come later then. */
const victimWait = 60_000

const terminate = `
select pg_terminate_backend(pid) from (
  select pid from pg_stat_activity
  where datname = current_database() and application_name = $3 and pid <> pg_backend_pid()
  order by md5(pid || $1)
  limit $2
) backends`

const chosen = <A>(from: ReadonlyArray<A>, choice: number): A | undefined => from[Math.floor(choice * from.length)]

const sum = (numbers: ReadonlyArray<number>) => numbers.reduce((a, b) => a + b, 0)

export const make = Effect.fnUntraced(function*(options: Options) {
  const { onFault, producers, server, sql, workers } = options
  const happened: Array<Mutable<Happened>> = []
  /** Workers that are frozen, or cut off, at present. */
  const away = new Set<number>()
  /** Children that stand still at present, and their workers: nothing else is to make them go on. */
  const stalled = new Map<number, number>()
  /** Kinds of faults that have happened. */
  const kinds = new Set<string>()
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
      // One that does not run handlers yet has nothing to lose.
      return pid !== undefined && !away.has(pid) && isReady(target.kept.folder, pid) &&
          runningFor(target.kept.folder, pid).length > 0
        ? [{ target, pid }]
        : []
    })

  /** Faults that take a whole worker away wait for one, one after another. Others do not wait for them. */
  const inTurn = Semaphore.makeUnsafe(1)
  /** The server is restarted by one at a time. */
  const restarting = Semaphore.makeUnsafe(1)

  /** What is there, as soon as it is. */
  const wait = <A>(look: Effect.Effect<A | undefined>) =>
    look.pipe(
      Effect.tap((found) => found === undefined ? Effect.sleep(50) : Effect.void),
      Effect.repeat({ until: (found) => found !== undefined }),
      Effect.timeoutOption(victimWait),
      Effect.map(Option.getOrUndefined)
    )

  /** A worker that may be hit: half of them go on without it. Waits for one. */
  const victim = (choice: number) =>
    wait(Effect.sync(() => {
      const found = steady()
      return found.length > workers.length / 2 ? chosen(found, choice) : undefined
    }))

  /** A child process of a worker that goes on itself. Waits for one. */
  const childVictim = (choice: number) =>
    wait(Effect.sync(() => {
      const children = steady().flatMap(({ pid: parent, target: { kept } }) =>
        runningFor(kept.folder, parent).flatMap((pid) =>
          pid === parent || killed.has(pid) || stalled.has(pid)
            ? []
            : [{ pid, parent, of: `child ${pid} of worker ${kept.slot}` }]
        )
      )
      return chosen(children, choice)
    }))

  const killProducer = Effect.fnUntraced(function*(choice: number) {
    const target = yield* wait(
      Effect.sync(() => chosen(producers.filter(({ kept }) => isReady(kept.folder, kept.pid())), choice))
    )
    const pids = target === undefined ? [] : yield* target.kept.kill
    if (pids.length === 0) return false
    yield* record("kill", `producer ${target?.kept.slot}`, { pids })
    return true
  })

  const killWorker = Effect.fnUntraced(function*(choice: number) {
    const found = yield* victim(choice)
    if (found === undefined) return false
    const { kept } = found.target
    const fault = yield* record("kill", `worker ${kept.slot}`, {
      worker: kept.slot,
      pids: [found.pid, ...runningFor(kept.folder, found.pid)]
    })
    yield* kept.kill
    yield* over(fault, replaced(found.target))
    return true
  })

  const killChild = Effect.fnUntraced(function*(choice: number) {
    const found = yield* childVictim(choice)
    if (found === undefined || !signal(found.pid, "SIGKILL")) return false
    killed.add(found.pid)
    // Its worker goes on, and looks after what the child was running.
    yield* record("kill", found.of, { pids: [found.pid] })
    return true
  })

  const freeze = Effect.fnUntraced(function*(whom: Frozen, millis: number, choice: number) {
    const found = yield* victim(choice)
    if (found === undefined) return false
    const { pid, target: { kept } } = found
    const to = whom === "group" ? -pid : pid
    if (!signal(to, "SIGSTOP")) return false
    away.add(pid)
    const how = whom === "group" ? "with its children" : "alone"
    const fault = yield* record("freeze", `worker ${kept.slot} ${how} for ${millis} ms`, {
      worker: kept.slot,
      pids: [pid, ...runningFor(kept.folder, pid)]
    })
    yield* later(
      fault,
      millis,
      Effect.sync(() => {
        away.delete(pid)
        signal(to, "SIGCONT")
        for (const [child, parent] of stalled) if (parent === pid) signal(child, "SIGSTOP")
      })
    )
    return true
  })

  /** Nothing gets through between a worker and the server, and neither is told. */
  const part = Effect.fnUntraced(function*(millis: number, choice: number) {
    const found = yield* victim(choice)
    if (found === undefined) return false
    const { pid, target: { kept, proxies } } = found
    away.add(pid)
    const dead = yield* Effect.forEach(proxies, ({ part }) => part)
    const fault = yield* record("partition", `worker ${kept.slot} for ${millis} ms`, {
      worker: kept.slot,
      pids: [pid, ...runningFor(kept.folder, pid)]
    })
    yield* later(
      fault,
      millis,
      Effect.andThen(Effect.forEach(dead, ({ over }) => over), Effect.sync(() => away.delete(pid)))
    )
    return true
  })

  const stall = Effect.fnUntraced(function*(millis: number, choice: number) {
    const found = yield* childVictim(choice)
    if (found === undefined || !signal(found.pid, "SIGSTOP")) return false
    stalled.set(found.pid, found.parent)
    const fault = yield* record("stall", `${found.of} for ${millis} ms`, { pids: [found.pid] })
    yield* later(fault, millis, Effect.sync(() => stalled.delete(found.pid) && signal(found.pid, "SIGCONT")))
    return true
  })

  const linksOf = (whom: "worker" | "producers", choice: number) => {
    // One that is about to start has nothing to cut.
    const worker = chosen(steady(), choice)?.target ?? chosen(workers, choice)
    return whom === "producers" || worker === undefined
      ? { name: "producers", worker: undefined, proxies: producers.flatMap(({ proxies }) => proxies) }
      : { name: `worker ${worker.kept.slot}`, worker: worker.kept.slot, proxies: worker.proxies }
  }

  /** Does something to links as soon as there are some. Gives whose they were, how many, and what is to be done in the end. */
  const hitLinks = <A extends { readonly links: number }>(
    whom: "worker" | "producers",
    choice: number,
    hit: (proxy: Proxy) => Effect.Effect<A>
  ) =>
    wait(Effect.gen(function*() {
      const { proxies, ...rest } = linksOf(whom, choice)
      const hits = yield* Effect.forEach(proxies, hit)
      const links = sum(hits.map(({ links }) => links))
      return links === 0 ? undefined : { ...rest, links, hits }
    }))

  const cut = Effect.fnUntraced(function*(how: Cut, whom: "worker" | "producers", choice: number) {
    const found = yield* hitLinks(whom, choice, (proxy) => Effect.map(proxy.cut(how), (links) => ({ links })))
    if (found === undefined) return false
    yield* record("cut", `${how} of ${found.links} connections of ${found.name}`, { worker: found.worker })
    return true
  })

  const swallow = Effect.fnUntraced(function*(millis: number, choice: number) {
    const found = yield* hitLinks("worker", choice, ({ swallow }) => swallow)
    if (found === undefined) return false
    const { hits, links, name, worker } = found
    const fault = yield* record("cut", `${links} connections of ${name} dead for ${millis} ms`, { worker })
    yield* later(fault, millis, Effect.forEach(hits, ({ over }) => over))
    return true
  })

  const terminateSome = Effect.fnUntraced(function*(most: number, choice: number) {
    const gone = yield* wait(
      sql.unsafe(terminate, [String(choice), most, options.applicationName]).pipe(
        Effect.map(({ length }) => length === 0 ? undefined : length),
        Effect.orElseSucceed(() => undefined)
      )
    )
    if (gone === undefined) return false
    yield* record("cut", `${gone} backends terminated`)
    return true
  })

  const delay = Effect.fnUntraced(function*(late: number, millis: number, choice: number) {
    const { name, proxies, worker } = linksOf("worker", choice)
    yield* Effect.forEach(proxies, ({ delay }) => delay(late))
    const fault = yield* record("delay", `${name} by ${late} ms for ${millis} ms`, { worker })
    yield* later(fault, millis, Effect.forEach(proxies, ({ delay }) => delay(-late)))
    return true
  })

  const restart = Effect.fnUntraced(function*(how: "fast" | "immediate", down: number) {
    if (server.restart === undefined) return false
    const fault = yield* record("restart", down > 0 ? `${how}, down for ${down} ms` : how)
    fault.until = Number.POSITIVE_INFINITY
    yield* server.restart(how, down)
    const back = yield* Effect.timeoutOption(Effect.eventually(sql`select 1`), options.patience)
    if (back._tag === "None") {
      return yield* new VerifyError({ message: `the server is not back ${options.patience / 1000} s after a restart` })
    }
    fault.until = yield* Clock.currentTimeMillis
    return true
  })

  /** Does it, as soon as it can hit something. Whether it did. */
  const perform = (fault: Fault, choice: number): Effect.Effect<boolean, VerifyError> => {
    switch (fault.what) {
      case "kill":
        return fault.whom === "worker"
          ? inTurn.withPermit(killWorker(choice))
          : fault.whom === "child"
          ? killChild(choice)
          : killProducer(choice)
      case "freeze":
        return inTurn.withPermit(freeze(fault.whom, fault.millis, choice))
      case "partition":
        return inTurn.withPermit(part(fault.millis, choice))
      case "stall":
        return stall(fault.millis, choice)
      case "cut":
        return cut(fault.how, fault.whom, choice)
      case "swallow":
        return swallow(fault.millis, choice)
      case "terminate":
        return terminateSome(fault.backends, choice)
      case "delay":
        return delay(fault.late, fault.millis, choice)
      case "restart":
        return restarting.withPermit(restart(fault.how, fault.down))
    }
  }

  /** Performs the plan from now on, and waits until every fault is over. */
  const run = Effect.fnUntraced(function*(plan: ReadonlyArray<Planned>) {
    const start = performance.now()
    for (const { at, choice, fault } of plan) {
      yield* Effect.sleep(Math.max(0, start + at - performance.now()))
      // A freeze may be waiting for a worker while the server is restarted.
      yield* FiberSet.run(
        performing,
        Effect.map(perform(fault, choice), (happened) => void (happened && kinds.add(kindOf(fault))))
      )
    }
    yield* Effect.raceFirst(FiberSet.awaitEmpty(performing), FiberSet.join(performing))
    yield* FiberSet.awaitEmpty(pending)
  })

  return {
    run,
    happened: happened as ReadonlyArray<Happened>,
    /** Kinds of faults of a plan of which none has happened. */
    missing: (plan: ReadonlyArray<Planned>) =>
      [...new Set(plan.map(({ fault }) => kindOf(fault)))].filter((kind) => !kinds.has(kind))
  }
})
