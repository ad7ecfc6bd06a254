/** What a child process costs, as an application has it: from the built package, with a module that loads no more than it uses. */
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import { execFileSync, spawn } from "node:child_process"
import { symlinkSync, writeFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { figures } from "../life/figures.ts"
import { eventually } from "../support/eventually.ts"
import * as program from "../support/program.ts"

const repository = resolve(import.meta.dirname, "../..")

const tasks = `
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Task from "./dist/Task.js"
export class Nothing extends Task.make("Nothing", { payload: {}, success: Schema.Int }) {}
export const NothingLive = Nothing.toLayer(() => Effect.succeed(process.pid))
`

/** A worker over a broker in memory, whose child has the settings of a database all the same. */
const main = `
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as MemoryBroker from "./dist/MemoryBroker.js"
import * as PostgresConfig from "./dist/PostgresConfig.js"
import * as Worker from "./dist/Worker.js"
import { Nothing } from "./tasks.mjs"
const services = Layer.merge(
  MemoryBroker.layer,
  PostgresConfig.layer({ databaseUrl: Redacted.make("postgresql://nobody@localhost/nothing") })
)
const worker = Worker.layer({ processes: { module: new URL("tasks.mjs", import.meta.url), count: 1 } })
Effect.gen(function*() {
  const handle = yield* Nothing.send({})
  process.stdout.write((yield* handle.await) + "\\n")
  return yield* Effect.never
}).pipe(Effect.provide(Layer.provideMerge(worker, services)), NodeRuntime.runMain)
`

/** Kilobytes of resident memory. */
const memoryOf = (pid: number) => Number(execFileSync("ps", ["-o", "rss=", "-p", String(pid)], { encoding: "utf8" }))

it.live("an idle child takes less than 60 MB above a bare Node process", () =>
  Effect.gen(function*() {
    const folder = yield* FileSystem.FileSystem.use((files) => files.makeTempDirectoryScoped())
    execFileSync(process.execPath, [
      join(repository, "node_modules/typescript/bin/tsc"),
      "-p",
      join(repository, "tsconfig.build.json"),
      "--outDir",
      join(folder, "dist")
    ])
    symlinkSync(join(repository, "node_modules"), join(folder, "node_modules"))
    writeFileSync(join(folder, "package.json"), "{ \"type\": \"module\" }")
    writeFileSync(join(folder, "tasks.mjs"), tasks)
    writeFileSync(join(folder, "main.mjs"), main)

    const bare = yield* Effect.acquireRelease(
      Effect.sync(() => spawn(process.execPath, ["-e", "setInterval(() => 0, 1e6)"], { stdio: "ignore" })),
      (bare) => Effect.sync(() => bare.kill())
    )
    // The cache with which the tests start faster is kept in memory, too.
    const worker = yield* program.start(join(folder, "main.mjs"), { env: { NODE_DISABLE_COMPILE_CACHE: "1" } })
    const child = Number(yield* worker.firstLine)
    let [memory, looks] = [0, 0]
    yield* eventually("a child whose memory has come to rest", () => {
      const before = memory
      memory = memoryOf(child)
      looks = Math.abs(memory - before) < 100 ? looks + 1 : 0
      return looks === 30
    }, 30)
    const above = (memory - memoryOf(bare.pid!)) / 1024
    figures("an idle child", { "MB above a bare process": above })
    assert.isBelow(above, 60)
  }).pipe(Effect.scoped, Effect.provide(NodeFileSystem.layer)), 120_000)
