/** The processes of a run: started, started again whenever they end, and hit by signals. */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import { type ChildProcess, fork } from "node:child_process"
import { closeSync, existsSync, openSync, readdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { moduleOf } from "./here.ts"

/** One process that is kept running in a folder of its own. */
export interface Kept {
  readonly slot: number
  readonly folder: string
  readonly pid: () => number | undefined
  /** How often it has ended by itself once it was ready, and how the last time. */
  readonly failures: () => { readonly count: number; readonly last: string | undefined }
  /** Kills the process, and what it has started, at once. It is started again. Gives the pids that were hit. */
  readonly kill: Effect.Effect<ReadonlyArray<number>>
  /** Tells the process something, if it is there. */
  readonly tell: (message: string) => void
  /**
   * Asks the process to end, waits for that up to so many milliseconds, and does not start it again. Whether it has ended
   * by itself; otherwise it was killed.
   */
  readonly stop: (ask: (process: ChildProcess) => void, millis: number) => Effect.Effect<boolean>
}

/** Whether a process is there and runs, or could. */
export const isAlive = (pid: number): boolean => {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

/** Sends a signal to a process, or to a whole group when `pid` is negative. Whether there was one. */
export const signal = (pid: number, name: NodeJS.Signals): boolean => {
  try {
    return process.kill(pid, name)
  } catch {
    return false
  }
}

/** The processes that run handlers for the worker process `parent` in this folder, the newest last. */
export const runningFor = (folder: string, parent: number): ReadonlyArray<number> =>
  readdirSync(folder).flatMap((name) => {
    const [, of, pid] = /^runs-(\d+)-(\d+)\.jsonl$/.exec(name) ?? []
    return Number(of) === parent && isAlive(Number(pid)) ? [Number(pid)] : []
  }).sort((a, b) => a - b)

const readyFile = (folder: string, pid: number) => join(folder, `ready-${pid}`)

/** Whether the process has built its layers. */
export const isReady = (folder: string, pid: number | undefined): boolean =>
  pid !== undefined && isAlive(pid) && existsSync(readyFile(folder, pid))

/** Says that this process has built its layers. */
export const ready = Effect.sync(() => writeFileSync(`ready-${process.pid}`, ""))

/** Keeps one of our programs running in a folder until the scope closes. */
export const keep = Effect.fnUntraced(function*(program: string, slot: number, folder: string) {
  let current: ChildProcess | undefined
  let ended = yield* Deferred.make<string>()
  let stopping = false
  const expected = new Set<number>()
  let failures: ReturnType<Kept["failures"]> = { count: 0, last: undefined }

  const start = Effect.sync(() => {
    const output = openSync(join(folder, "output.log"), "a")
    const process = fork(moduleOf(program), [], {
      cwd: folder,
      // A group of its own, to be frozen and killed as a whole. A Ctrl-C does not reach it: the run ends it in order.
      detached: true,
      execArgv: [],
      stdio: ["ignore", output, output, "ipc"]
    })
    closeSync(output)
    const end = Deferred.makeUnsafe<string>()
    const over = (how: string) => Deferred.doneUnsafe(end, Effect.succeed(how))
    process.once("exit", (code, signal) => over(signal ?? `exit code ${code}`))
    process.once("error", (error) => over(error.message))
    current = process
    ended = end
  })

  const killGroup = (pid: number) => {
    expected.add(pid)
    // Children that stay behind end by themselves, but a frozen one could not.
    signal(-pid, "SIGKILL")
  }

  const kept: Kept = {
    slot,
    folder,
    pid: () => {
      const pid = current?.pid
      return pid === undefined || expected.has(pid) || Deferred.isDoneUnsafe(ended) ? undefined : pid
    },
    failures: () => failures,
    // One that is about to end does not hear it any more.
    tell: (message) => void (kept.pid() === undefined ? undefined : current?.send(message, () => undefined)),
    kill: Effect.sync(() => {
      const pid = kept.pid()
      if (pid === undefined) return []
      const pids = [pid, ...runningFor(folder, pid).filter((child) => child !== pid)]
      killGroup(pid)
      return pids
    }),
    stop: (ask, millis) =>
      Effect.gen(function*() {
        stopping = true
        const pid = current?.pid
        if (pid === undefined || current === undefined || Deferred.isDoneUnsafe(ended)) return true
        signal(-pid, "SIGCONT")
        if (!expected.has(pid)) ask(current)
        const inTime = yield* Effect.timeoutOption(Deferred.await(ended), millis)
        killGroup(pid)
        yield* Deferred.await(ended)
        return inTime._tag === "Some"
      })
  }

  const once = Effect.gen(function*() {
    yield* start
    const pid = current?.pid
    const startedAt = yield* Clock.currentTimeMillis
    const how = yield* Deferred.await(ended)
    if (stopping) return yield* Effect.never
    // One that cannot start because there is no server at the moment is none of the program's faults.
    if (pid !== undefined && !expected.delete(pid) && existsSync(readyFile(folder, pid))) {
      failures = { count: failures.count + 1, last: how }
    }
    // Not to use up the machine with trying.
    const lived = (yield* Clock.currentTimeMillis) - startedAt
    yield* Effect.sleep(lived < 2000 ? 500 : 50)
  })
  yield* Effect.addFinalizer(() => kept.stop((process) => process.kill("SIGKILL"), 1000))
  yield* Effect.forkScoped(Effect.forever(once))
  return kept
})
