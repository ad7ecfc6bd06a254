/** Loaded before the program, lets the first attempt to open a file fail whose name says so, as if too many were open. */
import fs from "node:fs"
import { syncBuiltinESMExports } from "node:module"
import { constants } from "node:os"

const open = fs.openSync
const refused = new Set<string>()

fs.openSync = (path, ...rest) => {
  const name = String(path)
  if (name.includes("busy") && !refused.has(name)) {
    refused.add(name)
    throw Object.assign(new Error(name), { code: "EMFILE", errno: -constants.errno.EMFILE, syscall: "open" })
  }
  return open(path, ...rest)
}
syncBuiltinESMExports()
