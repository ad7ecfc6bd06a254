/** One PostgreSQL server for the whole run: the one that TEST_DATABASE_URL names, else an embedded one. */
import * as Effect from "effect/Effect"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Redacted from "effect/Redacted"
import type { TestProject } from "vitest/node"
import * as EmbeddedPostgres from "../../src/EmbeddedPostgres.ts"

declare module "vitest" {
  export interface ProvidedContext {
    /** A superuser's URL of the server; tests make databases of their own on it, see TestDatabase. */
    readonly serverUrl: string
  }
}

export default async function setup(project: TestProject) {
  const given = process.env["TEST_DATABASE_URL"]
  if (given !== undefined && given !== "") {
    project.provide("serverUrl", given)
    return undefined
  }
  // Every test file runs a few pools of its own at the same time as the others.
  const runtime = ManagedRuntime.make(EmbeddedPostgres.layer({ durable: false, settings: { max_connections: 200 } }))
  const { url } = await runtime.runPromise(Effect.service(EmbeddedPostgres.EmbeddedPostgres))
  project.provide("serverUrl", Redacted.value(url))
  return () => runtime.dispose()
}
