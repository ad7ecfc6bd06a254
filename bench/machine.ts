/** Where numbers come from: without it they say nothing. */
import type { PgClient } from "@effect/sql-pg/PgClient"
import * as Effect from "effect/Effect"
import { readFileSync } from "node:fs"
import * as Os from "node:os"
import { settings } from "./server.ts"

const gigabytes = (bytes: number) => `${Math.round(bytes / 2 ** 30)} GiB`

const versionOf = (path: string): string => {
  const { name, version } = JSON.parse(readFileSync(new URL(path, import.meta.url), "utf8")) as {
    readonly name: string
    readonly version: string
  }
  return `${name} ${version}`
}

/** The settings as the server has them, not as it was asked to. */
export const describe = Effect.fnUntraced(function*(sql: PgClient) {
  const names = [...Object.keys(settings), "autovacuum", "jit"]
  const rows = yield* sql.unsafe(
    "select name, current_setting(name) from unnest($1::text[]) with ordinality as n (name, i) order by i",
    [names]
  ).values
  const [[postgres] = []] = yield* sql.unsafe("show server_version").values
  const processors = Os.cpus()
  const load = Os.loadavg().map((value) => value.toFixed(2)).join(" ")
  const packages = [
    "../package.json",
    "../node_modules/effect/package.json",
    "../node_modules/@effect/sql-pg/package.json",
    "node_modules/graphile-worker/package.json"
  ]
  return [
    `machine:    ${processors.length} × ${processors[0]?.model.trim()}, ${
      gigabytes(Os.totalmem())
    }, ${Os.type()} ${Os.release()}, load ${load}`,
    `software:   Node ${process.versions.node}, PostgreSQL ${postgres}, ${packages.map(versionOf).join(", ")}`,
    `settings:   ${rows.map(([name, value]) => `${name}=${value}`).join(" ")}`
  ].join("\n")
})
