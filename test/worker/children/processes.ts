/** What the tests of child processes have in common. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Worker from "../../../src/Worker.ts"
import { eventually } from "../../support/eventually.ts"
import { isAlive } from "../../support/program.ts"
import { quick } from "../../support/worker.ts"
import { Where } from "./module.ts"

/** The module with the handlers of these tests. */
export const module = new URL("module.ts", import.meta.url)

/** Starts a worker with children; it stops with the scope. */
export const start = (processes: Partial<Worker.Processes> = {}, options: Worker.Options = quick) =>
  Layer.build(Layer.fresh(Worker.layer({ ...options, processes: { module, count: 2, ...processes } })))

/** The process that runs a task. */
export const where = (n = 0) => Effect.flatMap(Where.send({ n }), (handle) => handle.await)

/** The two processes of a worker, once both are up: those in which as many tasks run as there are slots. */
export const both = Effect.forEach([1, 2, 3, 4], () => where(150), { concurrency: "unbounded" }).pipe(
  Effect.map((pids) => [...new Set(pids)]),
  Effect.repeat({ until: (pids) => pids.length === 2 })
)

/** Waits until none of these processes is left. */
export const gone = (pids: ReadonlyArray<number>) => eventually("the end of the processes", () => !pids.some(isAlive))
