/** Reads files from beginning to end and keeps nothing of them. */
import { Effect } from "effect"
import { createHash } from "node:crypto"
import { closeSync, constants, openSync, read, readSync } from "node:fs"
import { promisify } from "node:util"
import * as FileName from "./FileName.ts"
import { SystemError } from "./SystemError.ts"

/** What there is to know of a file. */
export interface Contents {
  readonly sha256: string
  readonly bytes: number
  readonly lines: number
}

const chunk = 64 * 1024

/** Should something else have taken the place of the file meanwhile: a link is not followed, a pipe not waited for. */
const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK

const newline = 0x0a

const countLines = (text: Buffer) => {
  let lines = 0
  for (let at = text.indexOf(newline); at >= 0; at = text.indexOf(newline, at + 1)) lines++
  return lines
}

const readInBackground = promisify(read)

const now = <A>(run: () => A) => Effect.try({ try: run, catch: SystemError.from })

// Not interruptible: the thread that reads must not find the descriptor closed, or to be that of another file by now.
const later = (descriptor: number, buffer: Buffer) =>
  Effect.uninterruptible(Effect.tryPromise({
    try: async () => (await readInBackground(descriptor, buffer, 0, chunk, null)).bytesRead,
    catch: SystemError.from
  }))

/**
 * Makes a reader, with as many buffers as files are being read. Once the run is `stopped`, it goes no further than
 * the next chunk.
 *
 * The first chunk is read on the spot, and so is the whole of a small file: to open, read and close it takes 10 µs, to hand
 * these steps to a thread one by one would take 100. A larger file is read in the background from there on, so that
 * everything else in the process goes on.
 */
export const make = (stopped: () => boolean) => {
  const free: Array<Buffer> = []

  return (file: FileName.FileName): Effect.Effect<Contents, SystemError> =>
    Effect.acquireUseRelease(
      now(() => openSync(FileName.toBytes(file), flags)),
      Effect.fnUntraced(function*(descriptor) {
        const buffer = free.pop() ?? Buffer.allocUnsafeSlow(chunk)
        const hash = createHash("sha256")
        let bytes = 0
        let lines = 0
        let length = yield* now(() => readSync(descriptor, buffer))
        while (length > 0) {
          if (stopped()) return yield* new SystemError({ code: "ECANCELED", message: "the run was stopped" })
          const text = buffer.subarray(0, length)
          hash.update(text)
          bytes += length
          lines += countLines(text)
          length = yield* length < chunk ? now(() => readSync(descriptor, buffer)) : later(descriptor, buffer)
        }
        free.push(buffer)
        return { sha256: hash.digest("hex"), bytes, lines }
      }),
      (descriptor) => Effect.sync(() => closeSync(descriptor))
    )
}
