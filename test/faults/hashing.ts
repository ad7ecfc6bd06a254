/** Hashes until it is told to stop, for the test that asks how much two processes get done here. Prints rounds per second. */
import { hash } from "../worker/children/hashing.ts"

const [, , rounds = "1", millis = "1"] = process.argv
// Both sides of a comparison begin together, whenever their modules are loaded.
process.once("message", () => {
  const from = performance.now()
  let done = 0
  while (performance.now() - from < Number(millis)) {
    hash(Number(rounds))
    done += Number(rounds)
  }
  process.send?.(done / (performance.now() - from) * 1000, () => process.disconnect())
})
process.send?.("ready")
