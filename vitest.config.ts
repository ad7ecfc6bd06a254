import { availableParallelism } from "node:os"
import { fileURLToPath } from "node:url"
import { defineConfig } from "vitest/config"

/**
 * Tests that break things on purpose, and tests of figures. Some start programs that npm does not bring: PgBouncer, and
 * openssl for certificates.
 */
const faults = [
  "test/faults/**/*.test.ts",
  "test/connection/**/*.test.ts",
  "test/life/**/*.test.ts",
  "test/verify/run/*.test.ts"
]

/** Those of them that measure how much gets done, or how soon: they have the machine for themselves, one after another. */
const measuring = [
  "test/faults/{children,childMemory}.test.ts",
  "test/life/{processes,timing,transactions}.test.ts"
]

// Tests start hundreds of Node processes, which spend most of a second each on reading the same modules.
process.env["NODE_COMPILE_CACHE"] ??= fileURLToPath(new URL("node_modules/.cache/node-compile-cache", import.meta.url))

const onlyFaults = process.env["TEST_FAULTS"] !== undefined

export default defineConfig({
  // Examples import "effect-horsies/…" as a user does; here that means the sources.
  resolve: { conditions: ["effect-horsies-source"] },
  ssr: { resolve: { conditions: ["effect-horsies-source"] } },
  test: {
    ...(onlyFaults
      ? {
        projects: [
          {
            extends: true as const,
            test: {
              name: "waiting",
              include: faults,
              exclude: measuring,
              maxWorkers: 3,
              sequence: { groupOrder: 0 }
            }
          },
          {
            extends: true as const,
            test: {
              name: "measuring",
              include: measuring,
              fileParallelism: false,
              sequence: { groupOrder: 1 }
            }
          }
        ]
      }
      : {
        include: ["test/**/*.test.ts", "examples/**/*.test.ts"],
        exclude: ["**/node_modules/**", ...faults]
      }),
    globalSetup: ["test/support/globalSetup.ts"],
    pool: "forks",
    // The default leaves one processor to vitest, which needs hardly any.
    maxWorkers: availableParallelism(),
    testTimeout: 30_000,
    hookTimeout: 30_000
  }
})
