import { defineConfig } from "vitest/config"

/**
 * Tests that break things on purpose, and tests of figures. Most measure how long something takes, so their files run one
 * after another; and some start programs that npm does not bring: PgBouncer, and openssl for certificates.
 */
const faults = [
  "test/faults/**/*.test.ts",
  "test/connection/**/*.test.ts",
  "test/life/**/*.test.ts",
  "test/verify/run.test.ts"
]

/** Those of them that mostly wait, and measure nothing finely: they go first, some at a time. */
const waiting = [
  "test/connection/{echo,keepalives,problems,settings,url}.test.ts",
  "test/faults/{pgbouncer,pgbouncerOutage,poolShrinks,proxySoak,tls}.test.ts"
]

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
            test: { name: "waiting", include: waiting, maxWorkers: 3, sequence: { groupOrder: 0 } }
          },
          {
            extends: true as const,
            test: {
              name: "faults",
              include: faults,
              exclude: waiting,
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
    testTimeout: 30_000,
    hookTimeout: 30_000
  }
})
