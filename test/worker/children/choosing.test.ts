/** Which child a task goes to, and how the settings reach it. */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as PostgresConfig from "../../../src/PostgresConfig.ts"
import { Child } from "../../../src/worker/children/Child.ts"
import { choose } from "../../../src/worker/children/choosing.ts"
import { decode, encode } from "../../../src/worker/children/settings.ts"

let numbers = 0

/** A child that runs so many tasks of each queue; no process belongs to it. */
const child = (running: Readonly<Record<string, number>> = {}, more: Partial<Child> = {}) => {
  const made = Object.assign(new Child({} as never, {} as never, {} as never), { stage: "active" }, more)
  for (const [queue, count] of Object.entries(running)) for (let i = 0; i < count; i++) begin(made, queue)
  return made
}

const begin = (child: Child, queue: string, losses = 0) =>
  child.begin({
    number: numbers++,
    answer: Deferred.makeUnsafe(),
    runs: [{ task: { queue, losses } as never, worker: "", waited: 0, begins: () => undefined, why: () => undefined }]
  })

describe("a task goes", () => {
  it("to the child that runs the fewest of its queue, then the fewest of all", () => {
    const [a, b, c] = [child({ mail: 1 }), child({ mail: 1, other: 2 }), child({ other: 3 })]
    assert.strictEqual(choose([a, b, c], "mail", 5, false), c)
    begin(c, "mail")
    assert.strictEqual(choose([a, b, c], "mail", 5, false), a)
  })

  it("to no child that has as many of its queue as it may have, or is not there to run tasks", () => {
    const [full, spare, retiring] = [
      child({ mail: 2 }),
      child({}, { stage: "spare" }),
      child({}, { stage: "retiring" })
    ]
    assert.isUndefined(choose([full, spare, retiring], "mail", 2, false))
    assert.strictEqual(choose([full, spare, retiring], "mail", 3, false), full)
    assert.strictEqual(choose([full, spare, retiring], "other", 1, false), full)
  })

  it("rather not to a child that does not answer, or that may have to be killed", () => {
    const [busy, silent, stubborn] = [child({ mail: 3 }), child({}, { silent: 3 }), child({}, { interrupting: 1 })]
    assert.strictEqual(choose([silent, stubborn, busy], "mail", 4, false), busy)
    assert.strictEqual(choose([silent, stubborn, busy], "mail", 3, false), silent)
  })

  it("where it has least company when its process has died before, and others avoid it", () => {
    const [a, b] = [child({ other: 2 }), child({ mail: 1 })]
    assert.strictEqual(choose([a, b], "mail", 5, true), b)
    begin(b, "mail", 1)
    assert.strictEqual(choose([a, b], "other", 5, false), a)
  })
})

describe("settings", () => {
  it.effect("are the same after their way to a child, secrets and durations included", () =>
    Effect.gen(function*() {
      const config = yield* PostgresConfig.make({
        databaseUrl: Redacted.make("postgresql://app:s3cret@[::1]:6432,second/app?sslmode=require"),
        sessionDatabaseUrl: Redacted.make("postgresql://app:other@localhost/app"),
        pgbouncerTransactionMode: true,
        statementTimeout: "7 seconds",
        tcpKeepalives: false
      })
      const arrived = decode(encode(config))
      assert.strictEqual(Redacted.value(arrived.database.password!), "s3cret")
      assert.strictEqual(Duration.toMillis(arrived.statementTimeout!), 7000)
      assert.isUndefined(arrived.keepalives)
      assert.strictEqual(encode(arrived), encode(config))
    }))
})
