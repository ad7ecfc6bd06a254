/**
 * The path of a file. On Linux that is bytes, any but NUL, and they need be no text in any encoding. So that none of them
 * is lost on the way through the database, a path is a string with one character per byte here (latin1). Such strings also
 * compare as their bytes do.
 */
import { Brand, Schema } from "effect"
import { resolve } from "node:path"

export const FileName = Schema.String.pipe(Schema.brand("FileName"))

export type FileName = typeof FileName.Type

const make = Brand.nominal<FileName>()

export const fromBytes = (bytes: Buffer): FileName => make(bytes.toString("latin1"))

export const toBytes = (name: FileName): Buffer => Buffer.from(name, "latin1")

/** The absolute path of what a user has typed. */
export const fromUser = (path: string): FileName => fromBytes(Buffer.from(resolve(path)))

export const join = (folder: FileName, name: FileName): FileName => make(`${folder}/${name}`)

/** The path of something below a folder, seen from there. */
export const relative = (folder: FileName, path: FileName): FileName =>
  make(path === folder ? "." : path.slice(folder.length + 1))

/** For people: what could move the cursor or break the line is written as an escape. */
export const display = (name: FileName): string =>
  toBytes(name).toString().replaceAll(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
    (character) => `\\u{${character.codePointAt(0)?.toString(16)}}`
  )
