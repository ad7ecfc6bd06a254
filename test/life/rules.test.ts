/** The page of rules names tests that there are. */
import { assert, it } from "@effect/vitest"
import { existsSync, readFileSync } from "node:fs"
import { join, resolve } from "node:path"

const repository = resolve(import.meta.dirname, "../..")
const rows = readFileSync(join(repository, "docs/rules.md"), "utf8").split("\n").filter((line) => line.startsWith("| "))
const rules = rows.filter((line) => !/^\| (rule \||---)/.test(line))

it("each rule has its tests, and each of those is there", () => {
  assert.isAbove(rules.length, 50)
  const missing: Array<string> = []
  for (const rule of rules) {
    const tests = [...rule.matchAll(/`((?:src|test)\/[^`]+\.ts)`: ([^`|]+)/g)]
    if (tests.length === 0) missing.push(rule)
    for (const [, file, names] of tests) {
      const path = join(repository, file!)
      const source = existsSync(path) ? readFileSync(path, "utf8").replace(/\s+/g, " ") : ""
      for (const [, name] of names!.matchAll(/“([^”]+)”/g)) {
        if (!source.includes(name!)) missing.push(`${file}: ${name}`)
      }
    }
  }
  assert.deepStrictEqual(missing, [])
})
