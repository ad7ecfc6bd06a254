/** What README.md and the pages of docs say is what is there. */
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect } from "effect"
import { PostgresConfig } from "effect-horsies"
import { execFileSync } from "node:child_process"
import { existsSync, globSync, readFileSync } from "node:fs"
import { dirname } from "node:path"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("..", import.meta.url))
const readme = readFileSync(`${root}/README.md`, "utf8")
const sections = new Map(readme.split(/^## /m).map((text) => [text.slice(0, text.indexOf("\n")), text]))
const blocks = (language: string, text = readme) =>
  [...text.matchAll(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\`$`, "gms"))].map(([, code]) => code ?? "")

/** Indentation does not count: an excerpt starts at the margin. */
const flush = (code: string) => code.replaceAll(/^ +/gm, "")

const examples = globSync("examples/**/*.ts", { cwd: root }).map((file) =>
  flush(readFileSync(`${root}/${file}`, "utf8"))
)

describe.each(["README.md", ...globSync("docs/*.md", { cwd: root })])("%s", (page) => {
  const text = readFileSync(`${root}/${page}`, "utf8")

  it("quotes code from the examples only", () => {
    const elsewhere = blocks("ts", text).filter((code) => !examples.some((example) => example.includes(flush(code))))
    assert.deepStrictEqual(elsewhere, [])
  })

  it("links to what exists", () => {
    const missing = [...text.matchAll(/\]\((?!https:)([^)#]+)(#[^)]+)?\)/g)].filter(([, path]) =>
      !existsSync(`${root}/${dirname(page)}/${path}`)
    )
    assert.deepStrictEqual(missing, [])
  })
})

describe("README.md", () => {
  it("begins with the first example", () => {
    assert.strictEqual(blocks("ts")[0], readFileSync(`${root}/examples/first-task/main.ts`, "utf8"))
  })

  it("has exactly two set-up commands", () => {
    assert.deepStrictEqual(blocks("sh", sections.get("Try it")), ["npm ci && npm start\n", "npm ci && npm test\n"])
  })

  it("names modules that exist", () => {
    const table = sections.get("Where Effect's packages are now") ?? ""
    const modules = table.split("\n").flatMap((row) =>
      [...(row.split("|")[2] ?? "").matchAll(/`((?:@effect|effect)\/[^`]+)`/g)].map(([, name]) => name ?? "")
    )
    assert.isAbove(modules.length, 20)
    const missing = modules.filter((name) => !existsSync(fileURLToPath(import.meta.resolve(name))))
    assert.deepStrictEqual(missing, [])
  })

  it("states the ranges of package.json", () => {
    const { engines, peerDependencies } = JSON.parse(readFileSync(`${root}/package.json`, "utf8"))
    const table = sections.get("What it works with") ?? ""
    for (const [name, range] of Object.entries<string>(peerDependencies)) {
      assert.isTrue(table.split("\n").some((row) => row.includes(`\`${name}\``) && row.includes(`\`${range}\``)), name)
    }
    assert.include(table, `${engines.node.replace(">=", "")} or newer`)
  })

  it.effect("lists every variable that is read", () =>
    Effect.gen(function*() {
      const read = new Set<string>()
      const provider = ConfigProvider.make((path) =>
        Effect.sync(() => {
          const name = path.join("_")
          read.add(name)
          return name === "DATABASE_URL" ? ConfigProvider.makeValue("postgresql://localhost/app") : undefined
        })
      )
      yield* PostgresConfig.config.parse(provider)
      const listed = new Set(sections.get("What to set")?.match(/HORSIES_[A-Z_]+|DATABASE_URL/g))
      assert.deepStrictEqual([...listed].toSorted(), [...read].toSorted())
    }))

  it("gives a command that computes the digest of the main job", () => {
    const [command] = blocks("sh", sections.get("The main job"))
    const folder = `${root}/examples`
    const [digest] = execFileSync("sh", ["-c", command ?? ""], { cwd: folder, encoding: "utf8" }).split(" ")
    const output = execFileSync(process.execPath, [
      "--conditions=effect-horsies-source",
      `${root}/examples/checksums/main.ts`,
      "--json",
      folder
    ], {
      encoding: "utf8"
    })
    const lines = output.trimEnd().split("\n")
    assert.strictEqual(JSON.parse(lines[lines.length - 1] ?? "").digest, digest)
  })
})
