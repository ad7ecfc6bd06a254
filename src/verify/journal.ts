/**
 * What the processes of a run have seen, written down as it happens. Each process appends to files of its own. A line that
 * was written is there, however its process ends: processes die in a run, the machine does not.
 */
import { appendFileSync, closeSync, fstatSync, ftruncateSync, openSync, readSync } from "node:fs"
import { StringDecoder } from "node:string_decoder"
import type { Kind } from "./tasks.ts"

/** Times are milliseconds since the epoch, by the clock of the machine. */
interface At {
  readonly at: number
}

/** The first line of a process that runs handlers. `worker` is the slot, `parent` the process that claims for it. */
export interface ProcessLine extends At {
  readonly what: "process"
  readonly pid: number
  readonly parent: number
  readonly worker: number
}

/** A handler has begun. */
export interface BeginLine extends At {
  readonly what: "begin"
  readonly task: string
  readonly fence: number
}

/** A handler has ended. */
export interface EndLine extends At {
  readonly what: "end"
  readonly task: string
  readonly fence: number
  readonly how: "done" | "failed" | "interrupted"
}

/** A producer is about to send a task: everything that it takes to send the same once more. */
export interface SendLine extends At {
  readonly what: "send"
  readonly id: string
  readonly n: number
  readonly kind: Kind
  readonly millis: number
  readonly failures: number
  /** The idempotency key, or the concurrency key. */
  readonly key: string
  /** Milliseconds until it is due. */
  readonly delay: number
}

/** A send has succeeded. `stored` is the id of the task that is stored. */
export interface SentLine extends At {
  readonly what: "sent"
  readonly id: string
  readonly stored: string
}

/** A send was refused for good. */
export interface RefusedLine extends At {
  readonly what: "refused"
  readonly id: string
  readonly error: string
}

/** The broker has said that a waiting task is cancelled. */
export interface CancelledLine extends At {
  readonly what: "cancelled"
  readonly id: string
}

export type RunLine = ProcessLine | BeginLine | EndLine
export type SendsLine = SendLine | SentLine | RefusedLine | CancelledLine

/** A file that lines are appended to. */
export interface Journal<Line> {
  readonly write: (line: Line) => void
}

/** Longer than any line. */
const longest = 1 << 16

/** Takes away the line over which the process before this one has died. */
const mend = (file: number) => {
  const { size } = fstatSync(file)
  const end = Buffer.alloc(Math.min(size, longest))
  readSync(file, end, 0, end.length, size - end.length)
  ftruncateSync(file, size - end.length + end.lastIndexOf("\n") + 1)
}

/** Opens a file to append to. It stays open as long as the process. */
export const open = <Line>(path: string): Journal<Line> => {
  const file = openSync(path, "a+")
  mend(file)
  return { write: (line) => appendFileSync(file, `${JSON.stringify(line)}\n`) }
}

/** The lines of a file. The last one is left out when its process died over it. */
export function* linesOf<Line>(path: string): Generator<Line> {
  const file = openSync(path, "r")
  try {
    const buffer = Buffer.alloc(1 << 20)
    const decoder = new StringDecoder("utf8")
    let rest = ""
    for (let bytes = readSync(file, buffer); bytes > 0; bytes = readSync(file, buffer)) {
      const lines = (rest + decoder.write(buffer.subarray(0, bytes))).split("\n")
      rest = lines.pop() ?? ""
      for (const line of lines) yield JSON.parse(line) as Line
    }
  } finally {
    closeSync(file)
  }
}
