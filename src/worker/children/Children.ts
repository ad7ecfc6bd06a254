/**
 * The child processes of a worker: as many as were asked for, and one that is ready to replace any of them at once.
 *
 * A child that dies takes nothing with it but what it was running. One that has done its share, or has grown too large,
 * gets nothing new and ends with its last task. One whose event loop is blocked is reported, and killed after a while.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Latch from "effect/Latch"
import * as Option from "effect/Option"
import * as Semaphore from "effect/Semaphore"
import { availableParallelism } from "node:os"
import { PostgresConfig } from "../../PostgresConfig.ts"
import { backoff } from "../attempt.ts"
import { forkLoop } from "../loops.ts"
import { inRealTime, machineTime } from "../realTime.ts"
import { within } from "../within.ts"
import { type Child, dispose, isChild, spawn } from "./Child.ts"
import * as Keeper from "./keeper.ts"
import { ChildModuleError, type Options } from "./options.ts"
import type { Description } from "./rpcs.ts"
import { encode } from "./settings.ts"

/** How long the layers of a module may take to close. */
const closeTime = Duration.seconds(5)

/** Between two pings of a child at most, in milliseconds. */
const longestPingInterval = 1000

/** The lease of the worker, in milliseconds: as a whole, and what is left until it gives up. */
export interface Lease {
  readonly whole: number
  readonly left: () => number
}

/** One child, as monitoring wants to know it. */
export interface ChildState {
  readonly pid: number | undefined
  readonly stage: Child["stage"]
  /** Tasks that it runs at present. */
  readonly running: number
  /** Tasks that have ended in it. */
  readonly ended: number
  /** Bytes of resident memory, at most a few seconds ago. */
  readonly memory: number | undefined
}

/** How children are to connect: as the broker of this worker does, if it says. */
const settingsOf = (context: Context.Context<never>) =>
  Option.getOrUndefined(Option.map(Context.getOption(context, PostgresConfig), encode))

/** `onActive` is told when there are more children that run tasks than before. */
export const make = Effect.fnUntraced(function*(options: Options, lease: Lease, onActive: () => void) {
  const grace = lease.whole / 20
  // An answer and the next ping fit into it.
  const pingInterval = Math.min(longestPingInterval, grace / 2)
  const proof = () => ({ until: machineTime() + lease.left(), grace })
  const settings = settingsOf(yield* Effect.context<never>())
  if (isChild()) {
    return yield* new ChildModuleError({
      module: options.module,
      reason: "it starts a worker with processes in a child process; let it export nothing but layers of handlers"
    })
  }
  const fork = Effect.runForkWith(yield* Effect.context<never>())
  // Closed after the children are.
  const keeper = yield* Keeper.make
  const children = new Set<Child>()
  /** Starts under way, in the place of children that are missing. */
  let starting = 0
  /** Children in a row that died without having run anything. */
  let failures = 0
  let closing = false
  let names: ReadonlySet<string> | undefined
  const changed = yield* Latch.make()

  const inStage = (stage: Child["stage"]) => [...children].filter((child) => child.stage === stage)

  /** Those who wait for room in a child, or for any child at all, look again. */
  const tell = () => changed.openUnsafe()

  const close = (child: Child): Effect.Effect<void> =>
    Effect.suspend(() => {
      // A handler that still runs would see its services closed under it.
      const inPeace = child.stage !== "starting" && child.running === 0
      child.stage = "closing"
      return Effect.andThen(
        inPeace ? within(closeTime, Effect.exit(child.rpc.Close())) : Effect.void,
        dispose(child)
      )
    })

  const onGone = (child: Child, how: string) => {
    const { running, stage } = child
    const names = child.names()
    child.stage = "gone"
    children.delete(child)
    const answer = Effect.succeed({ _tag: child.killed ? "Killed" : "Died" } as const)
    for (const call of child.calls.values()) Deferred.doneUnsafe(call.answer, answer)
    fork(dispose(child))
    tell()
    if (closing || stage === "closing" || stage === "starting") return
    failures = child.ended > 0 ? 0 : failures + 1
    const { pid } = child.process
    fork(Effect.annotateLogs(Effect.logWarning("a child process is gone"), { pid, how, running, names }))
    ensure()
  }

  const failed = (reason: string) => new ChildModuleError({ module: options.module, reason })

  /** A start is mostly work for the processor: more at once would only take longer each. */
  const processors = Semaphore.makeUnsafe(availableParallelism())

  /** A child that has loaded the module. */
  const start: Effect.Effect<readonly [Child, ReadonlyArray<Description>], ChildModuleError> = Effect.gen(function*() {
    if (closing) return yield* failed("the worker has ended")
    const gone = yield* Deferred.make<never, ChildModuleError>()
    const child = yield* Effect.uninterruptible(Effect.tap(
      spawn(options.execArgv, keeper, (child, how) => {
        Deferred.doneUnsafe(gone, Effect.fail(failed(`its process ${how} before it was ready`)))
        onGone(child, how)
      }).pipe(Effect.catchDefect((defect) => Effect.fail(failed(`its process could not be started: ${defect}`)))),
      (child) => {
        if (closing) return Effect.andThen(dispose(child), Effect.fail(failed("the worker has ended")))
        if (child.stage === "starting") children.add(child)
        return Effect.void
      }
    ))
    return yield* child.rpc.Load({ module: options.module, settings }).pipe(
      // Without the channel there is no process either, and its end says more.
      Effect.catch((error) => error._tag === "LoadFailed" ? Effect.fail(failed(error.message)) : Effect.never),
      Effect.raceFirst(Deferred.await(gone)),
      Effect.timeoutOrElse({
        duration: options.startTimeout,
        orElse: () => Effect.fail(failed(`it was not ready after ${options.startTimeout / 1000} seconds`))
      }),
      Effect.map((descriptions) => [child, descriptions] as const),
      Effect.onError(() => dispose(child))
    )
  }).pipe(processors.withPermit)

  /** A module that has changed since the worker started may have lost what the worker claims. */
  const checked = Effect.flatMap(start, ([child, descriptions]) => {
    const found = new Set(descriptions.map(({ definition }) => definition.name))
    const missing = [...names ?? []].filter((name) => !found.has(name))
    return missing.length === 0
      ? Effect.succeed([child, descriptions] as const)
      : Effect.andThen(dispose(child), Effect.fail(failed(`it has no handler any more for ${missing.join(", ")}`)))
  })

  const startMissing = Effect.gen(function*() {
    if (failures > 0) yield* Effect.sleep(yield* backoff(failures))
    const result = yield* Effect.result(checked)
    starting--
    if (closing) return
    if (result._tag === "Success") {
      const [child] = result.success
      // It may be gone already.
      if (child.stage === "starting") child.stage = "spare"
    } else {
      failures++
      yield* Effect.annotateLogs(
        inStage("active").length > 0
          ? Effect.logWarning("a child process did not start")
          : Effect.logError("a child process did not start, and there is no other: nothing is claimed for them"),
        { error: result.failure.reason }
      )
    }
    ensure()
  })

  /** Puts spares where children are missing, and starts what is missing then. */
  const ensure = () => {
    if (closing) return
    const spares = inStage("spare")
    const before = inStage("active").length
    let active = before
    while (active < options.count && spares.length > 0) {
      spares.pop()!.stage = "active"
      active++
    }
    if (active > before) onActive()
    for (let missing = options.count + 1 - active - spares.length - starting; missing > 0; missing--) {
      starting++
      fork(startMissing)
    }
    tell()
  }

  /** It gets nothing new, and ends with its last task. */
  const retire = (child: Child, why: string) => {
    child.stage = "retiring"
    fork(Effect.annotateLogs(Effect.logDebug("a child process is replaced"), { pid: child.process.pid, why }))
    ensure()
    endIfDone(child)
  }
  const endIfDone = (child: Child) => {
    if (child.stage === "retiring" && child.running === 0) fork(close(child))
  }

  const ping = Effect.fnUntraced(function*(child: Child) {
    if (!child.pinged) {
      child.pinged = true
      fork(child.rpc.Ping(proof())).addObserver((exit) => {
        child.pinged = false
        child.silent = 0
        if (Exit.isSuccess(exit)) child.memory = exit.value.memory
      })
      return
    }
    const before = child.silent
    child.silent += pingInterval / 1000
    const crosses = (limit: number) => before * 1000 < limit && child.silent * 1000 >= limit
    if (!crosses(options.blockedWarning) && !crosses(options.blockedTimeout)) return
    const kills = crosses(options.blockedTimeout)
    yield* Effect.annotateLogs(
      kills
        ? Effect.logError("the event loop of a child process is blocked: it is killed")
        : Effect.logWarning("the event loop of a child process is blocked"),
      { pid: child.process.pid, seconds: Math.round(child.silent), names: child.names() }
    )
    if (kills) child.kill()
  })

  const pings = Effect.gen(function*() {
    yield* Effect.sleep(Duration.millis(pingInterval))
    for (const child of children) {
      if (child.stage === "spare" || child.stage === "active" || child.stage === "retiring") yield* ping(child)
    }
    for (const child of inStage("active")) {
      // Another would not be smaller than one that has done nothing yet.
      const grown = child.ended > 0 && (child.memory ?? 0) > options.maxMemory
      if (grown && inStage("spare").length > 0) retire(child, "memory")
    }
  })

  yield* Effect.addFinalizer(() => {
    closing = true
    tell()
    return Effect.forEach([...children], close, { concurrency: "unbounded", discard: true })
  })

  starting = options.count
  const first = yield* Effect.forEach(Array.from({ length: options.count }), () => start, { concurrency: "unbounded" })
  starting = 0
  const [bare, descriptions] = first[0]!
  const { memory } = yield* Effect.catch(bare.rpc.Ping(proof()), () => Effect.succeed({ memory: 0 }))
  if (memory > options.maxMemory) {
    return yield* failed(
      `a child process takes ${memory} bytes before it has run anything, and maxMemoryPerChild is ${options.maxMemory}`
    )
  }
  names = new Set(descriptions.map(({ definition }) => definition.name))
  for (const [child] of first) if (child.stage === "starting") child.stage = "active"
  ensure()
  // By the real clock: the event loops of processes know no other.
  yield* pings.pipe(
    Effect.forever,
    inRealTime,
    forkLoop
  )

  return {
    descriptions,
    /** How many run tasks, or would if they had any. */
    active: () => {
      let count = 0
      for (const { stage } of children) if (stage === "active") count++
      return count
    },
    children: children as ReadonlySet<Child>,
    isClosing: () => closing,
    changed: {
      close: () => changed.closeUnsafe(),
      await: changed.await
    },
    /** A call is in this child from now on. */
    begun: (child: Child) => {
      if (child.given >= options.maxTasks) retire(child, "tasks")
    },
    /** A call is over. */
    ended: (child: Child) => {
      endIfDone(child)
      tell()
    },
    /** Kills a child because of one of its tasks. */
    kill: (child: Child) => {
      child.killed = true
      child.kill()
    },
    snapshot: (): ReadonlyArray<ChildState> =>
      [...children].map(({ ended, memory, process, running, stage }) => ({
        pid: process.pid,
        stage,
        running,
        ended,
        memory
      }))
  }
})

export type Children = Effect.Success<ReturnType<typeof make>>
