/** Finds the files. */
import { Effect, Queue, Schedule, Stream } from "effect"
import type { Dir, Dirent } from "node:fs"
import { opendir } from "node:fs/promises"
import * as FileName from "./FileName.ts"
import { isTransient, SystemError } from "./SystemError.ts"

/** What a walk comes by, its path absolute. */
export type Found =
  | { readonly _tag: "File"; readonly path: FileName.FileName }
  | { readonly _tag: "Unlisted"; readonly path: FileName.FileName; readonly error: SystemError }

/** Entries that are read ahead of who takes them. */
const bufferSize = 1000

const attempt = <A>(run: () => Promise<A>) => Effect.tryPromise({ try: run, catch: SystemError.from })

const open = (folder: FileName.FileName) =>
  Effect.acquireRelease(
    // Node's types do not know that names can be had as the bytes that they are.
    attempt(() => opendir(FileName.toBytes(folder), { encoding: "buffer" as BufferEncoding, bufferSize })).pipe(
      Effect.retry({ while: isTransient, schedule: Schedule.exponential("50 millis"), times: 5 })
    ),
    (dir) => Effect.promise(() => dir.close())
  )

const read = (dir: Dir) => attempt(() => dir.read() as Promise<Dirent<Buffer> | null>)

/** Succeeds when there is such a folder and it can be listed. */
export const check = (folder: FileName.FileName): Effect.Effect<void, SystemError> =>
  Effect.scoped(Effect.asVoid(open(folder)))

/**
 * The regular files below a folder, in no order. Symbolic links are not followed, and special files are left out. A
 * folder further down that cannot be listed comes between the files.
 */
export const walk = (root: FileName.FileName): Stream.Stream<Found> =>
  Stream.callback((found) => {
    const list: (folder: FileName.FileName) => Effect.Effect<void> = Effect.fnUntraced(function*(folder) {
      const folders: Array<FileName.FileName> = []
      yield* open(folder).pipe(
        Effect.flatMap(Effect.fnUntraced(function*(dir) {
          for (let entry = yield* read(dir); entry !== null; entry = yield* read(dir)) {
            const path = FileName.join(folder, FileName.fromBytes(entry.name))
            if (entry.isFile()) yield* Queue.offer(found, { _tag: "File", path })
            else if (entry.isDirectory()) folders.push(path)
          }
        })),
        Effect.scoped,
        Effect.catch((error) => Queue.offer(found, { _tag: "Unlisted", path: folder, error }))
      )
      // Only now, so that one folder at a time is open, however deep they lie.
      yield* Effect.forEach(folders, list, { discard: true })
    })
    return Effect.andThen(list(root), Queue.end(found))
  }, { bufferSize })
