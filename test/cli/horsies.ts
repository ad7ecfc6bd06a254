/** The command, run as a process of its own. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { fileURLToPath } from "node:url"
import { eventually } from "../support/eventually.ts"
import * as program from "../support/program.ts"
import { TestDatabase } from "../support/TestDatabase.ts"

const main = fileURLToPath(new URL("../../src/cli/main.ts", import.meta.url))

/** The path of a module beside this one. */
export const path = (file: string) => fileURLToPath(new URL(file, import.meta.url))

/** Starts the command on the test's database. */
export const start = (...args: ReadonlyArray<string>) =>
  Effect.flatMap(
    TestDatabase,
    ({ url }) => program.start(main, { args, env: { HORSIES_DATABASE_URL: Redacted.value(url) } })
  )

/** Starts a worker and waits until it says that it is ready. */
export const worker = (...args: ReadonlyArray<string>) =>
  Effect.tap(
    start("worker", "--module", path("tasks.ts"), ...args),
    (worker) => {
      const ready = () => worker.errors().includes("is ready")
      // Starting the programs of children takes a busy machine a while.
      return eventually("a worker that is ready", () => ready() || worker.exitCode() !== null, 40).pipe(
        Effect.andThen(Effect.sync(() => assert.isTrue(ready(), worker.errors())))
      )
    }
  )

/** How it has ended: its exit code, and the lines of its standard error. */
export const end = (program: program.Program) =>
  Effect.map(
    Effect.andThen(eventually("the end of horsies", () => program.exitCode() !== null, 60), program.ended),
    () => ({ code: program.exitCode(), lines: program.errors().trim().split("\n") })
  )
