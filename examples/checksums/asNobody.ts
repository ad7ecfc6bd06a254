/**
 * Loaded before the program, makes it run as somebody who may not read everything, for tests that run as root. Its modules
 * are still loaded as root, who may enter wherever this repository lies; what it does itself begins without that right.
 */
import { registerHooks } from "node:module"

const dropRights = "process.setgroups([]); process.setgid(65534); process.setuid(65534);"

if (process.getuid?.() === 0) {
  registerHooks({
    load(url, context, next) {
      const loaded = next(url, context)
      // Imports come first, wherever in the module they stand.
      return url.endsWith("/checksums/main.ts") ? { ...loaded, source: `${dropRights}${loaded.source}` } : loaded
    }
  })
}
