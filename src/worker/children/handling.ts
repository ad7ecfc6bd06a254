/** Handlers whose runs are in child processes, as the worker has them beside its own. */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type { AttemptEnd, ClaimedTask, Failure } from "../../Broker.ts"
import type { ElsewhereHandler, RunElsewhere } from "../elsewhere.ts"
import { inRealTime, machineTime } from "../realTime.ts"
import { within } from "../within.ts"
import type { Answer, Call, Child } from "./Child.ts"
import type { Children } from "./Children.ts"
import { choose } from "./choosing.ts"
import type { Description, RunEnd } from "./rpcs.ts"

export interface Options {
  /** Milliseconds that an interrupted handler may go on before its process is killed. */
  readonly interruptGrace: number
  /** The same when the lease is lost: others are about to run its task. */
  readonly lostLeaseGrace: number
}

/** How long a claimed task may wait for a child process in which it can begin, in milliseconds. */
const patience = 5000

const shutdown: AttemptEnd = { _tag: "Interrupted", why: "Shutdown" }

const endOf = (end: RunEnd): AttemptEnd | undefined => end._tag === "Ended" ? end.end : undefined

export const make = (children: Children, { interruptGrace, lostLeaseGrace }: Options) => {
  let numbers = 0

  /**
   * What there is to find, as soon as it is there; nothing when the worker ends before, or when it takes until this time, by
   * the clock of processes. Only the wait can be interrupted: what was found is not lost.
   */
  const find = <A>(look: () => A | undefined, until = Number.POSITIVE_INFINITY): Effect.Effect<A | undefined> =>
    Effect.suspend(() => {
      const found = look()
      const left = until - machineTime()
      if (found !== undefined || left <= 0 || children.isClosing()) return Effect.succeed(found)
      children.changed.close()
      const change = left === Number.POSITIVE_INFINITY
        ? children.changed.await
        : Effect.raceFirst(children.changed.await, inRealTime(Effect.sleep(Duration.millis(Math.ceil(left)))))
      return Effect.andThen(Effect.interruptible(change), find(look, until))
    })

  /** Puts a call into a child that has room for it. */
  const place = (runs: ReadonlyArray<RunElsewhere>, capacity: number) => {
    const { queue } = runs[0]!.task
    const lostBefore = runs.some(({ task }) => task.losses > 0)
    return find((): readonly [Child, Call] | undefined => {
      const child = choose(children.children, queue, capacity, lostBefore)
      if (child === undefined) return undefined
      const call: Call = { number: numbers++, runs, answer: Deferred.makeUnsafe() }
      child.begin(call)
      children.begun(child)
      for (const run of runs) run.begins()
      return [child, call]
    }, machineTime() + patience)
  }

  const ask = (child: Child, call: Call) =>
    child.rpc.Run({
      run: call.number,
      worker: call.runs[0]!.worker,
      tasks: call.runs.map(({ task, waited }) => ({ task, waited }))
    }).pipe(
      Effect.matchCause({
        onSuccess: (ends) => Deferred.doneUnsafe(call.answer, Effect.succeed({ _tag: "Answered", ends })),
        // A child that cannot be asked is of no use; its end is the answer.
        onFailure: () => child.kill()
      })
    )

  /** Interrupts a call, and its process with it when that is the only way. */
  const stop = Effect.fnUntraced(
    function*(child: Child, call: Call, fork: (effect: Effect.Effect<unknown>) => unknown) {
      child.interrupting++
      fork(Effect.exit(child.rpc.Interrupt({ run: call.number })))
      const lostLease = call.runs.some(({ why }) => why() === "LeaseLost")
      const grace = lostLease ? Math.min(interruptGrace, lostLeaseGrace) : interruptGrace
      if (!(yield* within(Duration.millis(grace), Deferred.await(call.answer))) && child.calls.has(call.number)) {
        yield* Effect.annotateLogs(Effect.logWarning("a handler does not end: its child process is killed"), {
          pid: child.process.pid,
          name: call.runs[0]!.task.name
        })
        children.kill(child)
      }
      return yield* Effect.ensuring(Deferred.await(call.answer), Effect.sync(() => child.interrupting--))
    }
  )

  const ends = (call: Call, answer: Answer): Effect.Effect<ReadonlyArray<AttemptEnd | undefined>> => {
    if (answer._tag === "Answered") {
      return answer.ends.some(({ _tag }) => _tag === "Stopped")
        ? Effect.interrupt
        : Effect.succeed(answer.ends.map(endOf))
    }
    // Who wanted it interrupted has more to say of it.
    if (call.runs.some(({ why }) => why() !== undefined)) return Effect.interrupt
    return Effect.succeed(
      call.runs.map((): AttemptEnd =>
        answer._tag === "Died" ? { _tag: "Lost" } : { _tag: "Interrupted", why: "Neighbour" }
      )
    )
  }

  const run = (capacity: number): ElsewhereHandler["elsewhere"] => (runs) =>
    Effect.gen(function*() {
      const placed = yield* place(runs, capacity)
      // It has not begun, and can elsewhere.
      if (placed === undefined) return runs.map(() => undefined)
      const [child, call] = placed
      const fork = Effect.runForkWith(yield* Effect.context<never>())
      fork(ask(child, call))
      const exit = yield* Effect.exit(Effect.interruptible(Deferred.await(call.answer)))
      const answer = exit._tag === "Success" ? exit.value : yield* stop(child, call, fork)
      child.end(call)
      children.ended(child)
      return yield* ends(call, answer)
    })

  /** The child that is up and has the least to do, whether it runs tasks already or not. */
  const anybody = () => {
    let best: Child | undefined
    for (const child of children.children) {
      if (child.stage !== "spare" && child.stage !== "active") continue
      if (best === undefined || child.running + child.silent < best.running + best.silent) best = child
    }
    return best
  }

  /** The retry policy is in the module, so a child has to be asked: another one when the first dies meanwhile. */
  const failed = (task: ClaimedTask, failure: Failure): Effect.Effect<AttemptEnd> =>
    Effect.flatMap(find(anybody), (child) =>
      child === undefined
        ? Effect.succeed(shutdown)
        : Effect.catchCause(child.rpc.Failed({ task, failure }), () => {
          child.kill()
          return Effect.andThen(find(() => child.stage === "gone" ? child : undefined), failed(task, failure))
        }))

  const elsewhere = Effect.die(new Error("this handler runs in a child process"))

  /** `capacity`: the concurrency of its queue in one process. */
  return ({ batch, definition }: Description, capacity: number): ElsewhereHandler => ({
    definition,
    // If it wants a transaction, it is the child that begins it.
    transaction: false,
    batch: batch === undefined ? undefined : { size: Math.min(batch, capacity), run: () => elsewhere },
    run: () => elsewhere,
    elsewhere: run(capacity),
    failed,
    interruptedItself: (task, cause) => failed(task, { kind: "Defect", value: JSON.stringify(Cause.pretty(cause)) })
  })
}
