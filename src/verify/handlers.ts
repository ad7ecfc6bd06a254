/** The handlers of a run. Each writes down when it begins and how it ends. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import { SqlClient } from "effect/sql/SqlClient"
import { CurrentTask, type Payload } from "../Task.ts"
import * as Journal from "./journal.ts"
import * as Settings from "./Settings.ts"
import { definitions, effectsTable, Flaky, probe } from "./tasks.ts"

/** The journal of this process: `runs-<worker process>-<this process>.jsonl`. */
const openJournal = Effect.fnUntraced(function*({ children, slot }: Settings.Settings) {
  const { pid } = process
  const parent = children > 0 ? process.ppid : pid
  const journal = Journal.open<Journal.RunLine>(`runs-${parent}-${pid}.jsonl`)
  journal.write({ what: "process", at: yield* Clock.currentTimeMillis, pid, parent, worker: slot })
  return journal
})

const make = Effect.gen(function*() {
  const settings = yield* Settings.read
  const journal = yield* openJournal(settings)

  /** Runs a handler between its two lines, and gives the run it was. */
  const noted = <E, R>(handler: Effect.Effect<void, E, R>) =>
    Effect.gen(function*() {
      const { fence, id: task } = yield* CurrentTask
      journal.write({ what: "begin", at: yield* Clock.currentTimeMillis, task, fence })
      yield* Effect.onExit(handler, (exit) =>
        Effect.map(Clock.currentTimeMillis, (at) =>
          journal.write({
            what: "end",
            at,
            task,
            fence,
            how: Exit.isSuccess(exit) ? "done" : Exit.hasInterrupts(exit) ? "interrupted" : "failed"
          })))
      return { fence, pid: process.pid }
    })

  type Work = Payload<typeof definitions.plain>

  const work = ({ failures, millis }: Work) =>
    Effect.gen(function*() {
      const { attempt, fence } = yield* CurrentTask
      if (millis > 0) yield* Effect.sleep(millis)
      if (attempt <= failures) return yield* new Flaky({ fence, pid: process.pid })
    })

  const statement = `insert into ${effectsTable(settings.schema)} (task, fence) values ($1, $2)`
  /** The row comes first: most of the time the transaction is open with something in it. */
  const transact = (payload: Work) =>
    Effect.gen(function*() {
      const sql = yield* SqlClient
      const { fence, id } = yield* CurrentTask
      yield* Effect.orDie(sql.unsafe(statement, [id, fence]))
      yield* work(payload)
    })

  const plain = (payload: Work) => noted(work(payload))
  return Layer.mergeAll(
    definitions.plain.toLayer(plain),
    definitions.retried.toLayer(plain),
    definitions.delayed.toLayer(plain),
    definitions.once.toLayer(plain),
    definitions.lane.toLayer(plain),
    definitions.cancelled.toLayer(plain),
    definitions.transactional.toLayer((payload) => noted(transact(payload)), { transaction: true }),
    probe(settings.slot).toLayer(() => noted(Effect.void))
  )
})

/** What a worker's process, or its child processes, run. */
export const handlers = Layer.unwrap(make)
