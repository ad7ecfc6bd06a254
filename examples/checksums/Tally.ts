/** What a run has come to so far. */
import { createHash } from "node:crypto"
import type { Checksum } from "./Checksum.ts"
import type * as FileName from "./FileName.ts"

/** A file and how long its handler took, in milliseconds. */
export interface Timed {
  readonly path: FileName.FileName
  readonly bytes: number
  readonly took: number
}

/** A file or folder that could not be read, and why. */
export interface Problem {
  readonly path: FileName.FileName
  readonly reason: string
}

const slowestKept = 5

export class Tally {
  /** Files found, and whether these are all. */
  files = 0
  walked = false
  completed = 0
  failed = 0
  /** Folders that could not be listed. */
  skipped = 0
  /** Tasks that took more than one attempt. */
  retried = 0
  bytes = 0
  lines = 0
  /** Between the first send and the last result. */
  seconds = 0
  readonly problems: Array<Problem> = []
  readonly slowest: Array<Timed> = []
  private readonly sums: Array<readonly [path: FileName.FileName, sha256: string]> = []
  private readonly waits: Array<number> = []

  complete(path: FileName.FileName, success: typeof Checksum.successSchema.Type) {
    const { attempt, bytes, lines, sha256, took, waited } = success
    this.completed++
    if (attempt > 1) this.retried++
    this.bytes += bytes
    this.lines += lines
    this.sums.push([path, sha256])
    this.waits.push(waited)
    if (took > (this.slowest[slowestKept - 1]?.took ?? 0)) {
      this.slowest.push({ path, bytes, took })
      this.slowest.sort((a, b) => b.took - a.took).splice(slowestKept)
    }
  }

  fail(path: FileName.FileName, reason: string, attempt: number) {
    this.failed++
    if (attempt > 1) this.retried++
    this.problems.push({ path, reason })
  }

  skip(path: FileName.FileName, reason: string) {
    this.skipped++
    this.problems.push({ path, reason })
  }

  get ended() {
    return this.completed + this.failed
  }

  get tasksPerSecond() {
    return this.seconds === 0 ? 0 : this.completed / this.seconds
  }

  /** The milliseconds that this share of the completed tasks waited at most. */
  wait(share: number) {
    const sorted = Float64Array.from(this.waits).sort()
    return sorted[Math.ceil(share * sorted.length) - 1] ?? 0
  }

  /** The SHA-256 of a line `<sha256>  <path>` for every completed file, sorted by the bytes of the paths. */
  digest() {
    const hash = createHash("sha256")
    for (const [path, sha256] of this.sums.sort(([a], [b]) => a < b ? -1 : 1)) {
      hash.update(`${sha256}  ${path}\n`, "latin1")
    }
    return hash.digest("hex")
  }
}
