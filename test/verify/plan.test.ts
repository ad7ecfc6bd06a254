import { assert, describe, it } from "@effect/vitest"
import { type Fault, type Options, plan, type Planned } from "../../src/verify/plan.ts"
import { chance, whole } from "../../src/verify/random.ts"

const minute = (seed: number, more: Partial<Options> = {}) =>
  plan({ seed, seconds: 60, lease: 3000, restarts: true, outages: true, children: true, ...more })

const count = (plan: ReadonlyArray<Planned>, is: (fault: Fault) => boolean) =>
  plan.filter(({ fault }) => is(fault)).length

describe("chance", () => {
  it("gives the same numbers for the same seed and name, and others for others", () => {
    const numbers = (seed: number, name: string) => {
      const next = chance(seed, name)
      return Array.from({ length: 20 }, () => next())
    }
    assert.deepStrictEqual(numbers(7, "a"), numbers(7, "a"))
    assert.notDeepEqual(numbers(7, "a"), numbers(7, "b"))
    assert.notDeepEqual(numbers(7, "a"), numbers(8, "a"))
  })

  it("spreads evenly", () => {
    const next = chance(1, "dice")
    const faces = new Map<number, number>()
    for (let i = 0; i < 60_000; i++) {
      const face = whole(next, 1, 6)
      faces.set(face, (faces.get(face) ?? 0) + 1)
    }
    assert.deepStrictEqual([...faces.keys()].sort(), [1, 2, 3, 4, 5, 6])
    for (const times of faces.values()) assert.isTrue(times > 9500 && times < 10_500, String(times))
  })
})

describe("the plan of a minute", () => {
  it("is the same for the same seed", () => {
    assert.deepStrictEqual(minute(7), minute(7))
    assert.notDeepEqual(minute(7), minute(8))
  })

  it.each([1, 7, 2 ** 31 - 1])("kills, freezes, restarts and cuts often enough (seed %d)", (seed) => {
    const faults = minute(seed)
    assert.isAtLeast(count(faults, ({ what }) => what === "kill"), 22)
    assert.isAtLeast(count(faults, ({ what }) => what === "freeze"), 5)
    assert.isAtLeast(count(faults, ({ what }) => what === "restart"), 3)
    assert.isAtLeast(count(faults, (fault) => fault.what === "restart" && fault.how === "immediate"), 1)
    assert.isAtLeast(count(faults, (fault) => fault.what === "restart" && fault.how === "fast"), 1)
    assert.isAtLeast(count(faults, ({ what }) => what === "cut" || what === "swallow" || what === "terminate"), 22)
    assert.isTrue(faults.every(({ at }) => at >= 4000 && at <= 60_000))
    assert.isTrue(
      faults.every(({ fault }) => fault.what !== "freeze" || fault.millis > 3000 && Number.isInteger(fault.millis))
    )
  })

  it("lets the server stay away for longer than a lease, where that is possible", () => {
    const outages = (outages: boolean) =>
      count(minute(7, { outages }), (fault) => fault.what === "restart" && fault.down > 3000)
    assert.strictEqual(outages(true), 1)
    assert.strictEqual(outages(false), 0)
  })

  it("restarts nothing where that is not allowed, and hits no children where there are none", () => {
    const faults = minute(7, { restarts: false, outages: false, children: false })
    assert.strictEqual(count(faults, ({ what }) => what === "restart" || what === "stall"), 0)
    assert.strictEqual(count(faults, (fault) => fault.what === "kill" && fault.whom === "child"), 0)
    assert.isAtLeast(count(faults, ({ what }) => what === "kill"), 20)
  })
})
