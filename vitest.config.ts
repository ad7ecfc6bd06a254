import { defineConfig } from "vitest/config"

export default defineConfig({
  // Examples import "effect-horsies/…" as a user does; here that means the sources.
  resolve: { conditions: ["effect-horsies-source"] },
  ssr: { resolve: { conditions: ["effect-horsies-source"] } },
  test: {
    include: ["test/**/*.test.ts", "examples/**/*.test.ts"],
    globalSetup: ["test/support/globalSetup.ts"],
    pool: "forks",
    testTimeout: 20_000,
    hookTimeout: 20_000
  }
})
