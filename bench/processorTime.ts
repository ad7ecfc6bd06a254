/** Who used the processors, in milliseconds: what a disturbed machine changes least. */
import * as Effect from "effect/Effect"
import { readdirSync, readFileSync } from "node:fs"
import { cpus } from "node:os"
import { join } from "node:path"
import { EmbeddedPostgres } from "../src/EmbeddedPostgres.ts"

/** Everybody, since the machine started. */
export const ofMachine = (): number =>
  cpus().reduce((sum, { times }) => sum + times.user + times.nice + times.sys + times.irq, 0)

/** This process. */
export const ofProcess = (): number => {
  const { system, user } = process.cpuUsage()
  return (system + user) / 1000
}

const read = (...path: ReadonlyArray<string>): string => {
  try {
    return readFileSync(join(...path), "utf8")
  } catch {
    // A process that has ended meanwhile.
    return ""
  }
}

const parentOf = (pid: string) => read("/proc", pid, "stat").split(") ")[1]?.split(" ")[1]

const nanosecondsOf = (pid: string) => Number(read("/proc", pid, "schedstat").split(" ")[0])

/** The server's processes that are there now. Only Linux tells. */
export const ofServer = Effect.map(EmbeddedPostgres, ({ directory }) => {
  if (process.platform !== "linux") return Number.NaN
  const postmaster = read(directory, "data", "postmaster.pid").split("\n")[0]
  return readdirSync("/proc")
    .filter((pid) => /^\d+$/.test(pid) && (pid === postmaster || parentOf(pid) === postmaster))
    .reduce((sum, pid) => sum + nanosecondsOf(pid) / 1e6, 0)
})
