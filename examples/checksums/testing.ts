/** For the tests: folders, and the program run on them as a process of its own. */
import { assert } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { spawn, spawnSync } from "node:child_process"
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import type { Server } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { eventually } from "../../test/support/eventually.ts"
import { Report } from "./summary.ts"

/** A folder that every user may use, as the system's own temporary one. */
export const temporaryFolder = Effect.acquireRelease(
  Effect.sync(() => {
    const folder = mkdtempSync(join(tmpdir(), "checksums-test-"))
    chmodSync(folder, 0o1777)
    return folder
  }),
  (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
)

interface Options {
  readonly args: ReadonlyArray<string>
  readonly env?: Readonly<Record<string, string>>
  /** A module beside this one that the process loads first, and that changes what the program finds. */
  readonly preload?: string
}

/** How the program ended. */
export interface Ended {
  readonly code: number | null
  /** Since it was started, or was sent its last signal. */
  readonly seconds: number
  readonly stdout: string
  readonly stderr: string
}

/** Starts the program, with a folder of its own for temporary files. What is left of it is killed with the scope. */
export const start = Effect.fnUntraced(function*({ args, env, preload }: Options) {
  const temporary = yield* temporaryFolder
  const starting = Effect.sync(() => {
    const child = spawn(process.execPath, [
      "--conditions=effect-horsies-source",
      ...(preload === undefined ? [] : [`--import=${join(import.meta.dirname, preload)}`]),
      join(import.meta.dirname, "main.ts"),
      ...args
    ], {
      cwd: join(import.meta.dirname, "../.."),
      detached: true,
      env: { ...process.env, DATABASE_URL: "", TMPDIR: temporary, ...env },
      stdio: ["ignore", "pipe", "pipe"]
    })
    let since = performance.now()
    let stdout = ""
    let stderr = ""
    let ended: Ended | undefined
    child.stdout.setEncoding("utf8").on("data", (text) => (stdout += text))
    child.stderr.setEncoding("utf8").on("data", (text) => (stderr += text))
    child.once("close", (code) => (ended = { code, seconds: (performance.now() - since) / 1000, stdout, stderr }))
    return {
      temporary,
      stderr: () => stderr,
      hasEnded: () => ended !== undefined,
      ended: Effect.map(eventually("the end of the program", () => ended !== undefined), () => ended!),
      /** Sends a signal to its whole process group, as a terminal does. */
      signal: (signal: NodeJS.Signals) =>
        Effect.sync(() => {
          since = performance.now()
          process.kill(-child.pid!, signal)
        })
    }
  })
  return yield* Effect.acquireRelease(
    starting,
    ({ ended, hasEnded, signal }) => hasEnded() ? Effect.void : Effect.andThen(signal("SIGKILL"), ended)
  )
})

/** What there is of a program's server: its files, and the processes that have them on their command line. */
export const leftOf = (temporary: string): ReadonlyArray<string> => [
  ...readdirSync(temporary),
  ...(existsSync("/proc/self/cmdline") ? readdirSync("/proc") : []).filter((name) => {
    try {
      return /^\d+$/.test(name) && readFileSync(`/proc/${name}/cmdline`, "utf8").includes(temporary)
    } catch {
      return false
    }
  })
]

/** Runs the program to its end, and makes sure that nothing is left of it. */
export const run = (options: Options) =>
  Effect.scoped(Effect.gen(function*() {
    const program = yield* start(options)
    const ended = yield* program.ended
    assert.deepStrictEqual(leftOf(program.temporary), [])
    return ended
  }))

/** What the program says on stderr beside how far it is, which depends on how long it takes. */
export const complaintsOf = ({ stderr }: Ended): ReadonlyArray<string> =>
  stderr.split("\n").filter((line) =>
    line !== "" && !/^[\d,]+ of [\d,]+\+? files, [\d,]+\/s(, \d+ failed)?$/.test(line)
  )

/** The one line on stderr with which the program says that it cannot even begin. */
export const refusal = Effect.fnUntraced(function*(options: Options) {
  const ended = yield* run(options)
  assert.strictEqual(ended.code, 2, ended.stderr)
  assert.strictEqual(ended.stdout, "")
  const [line = "", ...more] = complaintsOf(ended)
  assert.match(line, /^checksums: ./)
  assert.deepStrictEqual(more, [])
  return { line, seconds: ended.seconds }
})

const decodeReport = Schema.decodeUnknownSync(Schema.fromJsonString(Report), { onExcessProperty: "error" })

/** The last line on stdout, which is JSON of exactly this shape. */
export const reportOf = ({ stdout }: Ended) => decodeReport(stdout.trimEnd().split("\n").at(-1))

/** Runs a line of shell in a folder, for what coreutils say. */
export const shell = (folder: string, line: string): string => {
  const { status, stderr, stdout } = spawnSync("/bin/sh", ["-ec", line], { cwd: folder, encoding: "utf8" })
  assert.strictEqual(status, 0, stderr)
  return stdout.trim()
}

/** The line from the head of `main.ts`. */
export const digestOf = (folder: string): string =>
  shell(
    folder,
    "find . -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum -z | LC_ALL=C sed -z 's|  \\./|  |' | tr '\\0' '\\n' | sha256sum"
  ).slice(0, 64)

/** The port that a server was given. */
export const portOf = (server: Server): number => {
  const address = server.address()
  if (address === null || typeof address === "string") throw new Error("the server does not listen on a port")
  return address.port
}
