/** The restart command of a user. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { runCommand } from "../../src/verify/Server.ts"

const failure = (run: Effect.Effect<void, Error>) => Effect.map(Effect.flip(run), ({ message }) => message)

describe("a restart command", () => {
  it.live("finds the kind of restart in $1", () => runCommand("test \"$1\" = immediate", "immediate"))

  it.live("that fails, or takes too long, ends the run", () =>
    Effect.gen(function*() {
      assert.strictEqual(
        yield* failure(runCommand("exit 3", "fast")),
        "the restart command ended with exit code 3"
      )
      assert.strictEqual(
        yield* failure(runCommand("exec sleep 60", "fast", "50 millis")),
        "the restart command took longer than 50 millis"
      )
    }))
})
