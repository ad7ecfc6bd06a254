import { defineConfig } from "vitest/config"

/** Tests that start programs which npm does not bring: PgBouncer, and openssl for certificates. `.ci/run` installs them. */
const withSystemPrograms = ["test/faults/pgbouncer*.test.ts", "test/faults/tls.test.ts"]

const system = process.env["TEST_SYSTEM_PROGRAMS"] !== undefined

export default defineConfig({
  // Examples import "effect-horsies/…" as a user does; here that means the sources.
  resolve: { conditions: ["effect-horsies-source"] },
  ssr: { resolve: { conditions: ["effect-horsies-source"] } },
  test: {
    include: system ? withSystemPrograms : ["test/**/*.test.ts", "examples/**/*.test.ts"],
    exclude: system ? [] : ["**/node_modules/**", ...withSystemPrograms],
    globalSetup: ["test/support/globalSetup.ts"],
    pool: "forks",
    testTimeout: 20_000,
    hookTimeout: 20_000
  }
})
