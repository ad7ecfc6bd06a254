import { defineConfig } from "vitest/config"

/**
 * Tests that break things on purpose. They measure how long it takes until something is noticed, so their files run one
 * after another; and some start programs that npm does not bring: PgBouncer, and openssl for certificates.
 */
const faults = ["test/faults/**/*.test.ts", "test/connection/**/*.test.ts"]

const onlyFaults = process.env["TEST_FAULTS"] !== undefined

export default defineConfig({
  // Examples import "effect-horsies/…" as a user does; here that means the sources.
  resolve: { conditions: ["effect-horsies-source"] },
  ssr: { resolve: { conditions: ["effect-horsies-source"] } },
  test: {
    include: onlyFaults ? faults : ["test/**/*.test.ts", "examples/**/*.test.ts"],
    exclude: onlyFaults ? [] : ["**/node_modules/**", ...faults],
    fileParallelism: !onlyFaults,
    globalSetup: ["test/support/globalSetup.ts"],
    pool: "forks",
    testTimeout: 30_000,
    hookTimeout: 30_000
  }
})
