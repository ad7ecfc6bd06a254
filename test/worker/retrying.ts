/** How attempts fail, and when there is another. */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Task from "../../src/Task.ts"
import { type It, outcomes, record, start } from "../support/worker.ts"
import { Flaky, Held, Patient, Shaky, Slow } from "./tasks.ts"

export const retrying = (it: It) => {
  it.effect("retries typed failures on the definition's schedule, and fails with the last one", () =>
    Effect.gen(function*() {
      const attempts: Array<number> = []
      yield* start(Flaky.toLayer(({ failures, worthIt }) =>
        Effect.gen(function*() {
          const { attempt } = yield* Task.CurrentTask
          attempts.push(attempt)
          return attempt <= failures ? yield* new Shaky({ worthIt, attempt }) : attempt
        })
      ))
      const succeeds = yield* Flaky.send({ failures: 2, worthIt: true })
      assert.strictEqual(yield* succeeds.await, 3)
      assert.deepStrictEqual(attempts.splice(0), [1, 2, 3])
      assert.deepStrictEqual((yield* record(succeeds.id)).history.map(({ attempt, outcome }) => [attempt, outcome]), [
        [1, "Error"],
        [2, "Error"],
        [3, "Completed"]
      ])

      const exhausted = yield* Flaky.send({ failures: 99, worthIt: true })
      assert.deepStrictEqual(yield* Effect.flip(exhausted.await), new Shaky({ worthIt: true, attempt: 4 }))
      assert.deepStrictEqual(attempts.splice(0), [1, 2, 3, 4])

      const hopeless = yield* Flaky.send({ failures: 99, worthIt: false })
      assert.deepStrictEqual(yield* Effect.flip(hopeless.await), new Shaky({ worthIt: false, attempt: 1 }))
      assert.deepStrictEqual(attempts, [1])
    }))

  it.effect("a handler can say that trying again is of no use, whatever the policy says", () =>
    Effect.gen(function*() {
      yield* start(Flaky.toLayer(() =>
        Effect.flatMap(Task.CurrentTask, ({ attempt }) =>
          Task.fail(new Shaky({ worthIt: true, attempt }), { retry: false }))
      ))
      const handle = yield* Flaky.send({ failures: 99, worthIt: true })
      assert.deepStrictEqual(yield* Effect.flip(handle.await), new Shaky({ worthIt: true, attempt: 1 }))
      assert.strictEqual((yield* record(handle.id)).attempts, 1)
    }))

  it.effect("a handler can say when to try again, as often as `times` allows", () =>
    Effect.gen(function*() {
      yield* start(Patient.toLayer(() =>
        Effect.flatMap(Task.CurrentTask, ({ attempt }) =>
          Task.fail(new Shaky({ worthIt: false, attempt }), { retry: "5 millis" }))
      ))
      const handle = yield* Patient.send({})
      // The schedule would make it wait for hours, and `while` would end it.
      assert.deepStrictEqual(yield* Effect.flip(handle.await), new Shaky({ worthIt: false, attempt: 3 }))
      assert.deepStrictEqual(yield* outcomes(handle.id), ["Error", "Error", "Error"])
    }))

  it.effect("what was said about one error does not count for another", () =>
    Effect.gen(function*() {
      yield* start(Flaky.toLayer(() =>
        Effect.gen(function*() {
          const { attempt } = yield* Task.CurrentTask
          if (attempt === 4) return attempt
          yield* Effect.ignore(Task.fail(new Shaky({ worthIt: false, attempt }), { retry: false }))
          return yield* new Shaky({ worthIt: true, attempt })
        })
      ))
      assert.strictEqual(yield* Effect.flatMap(Flaky.send({ failures: 3, worthIt: true }), (handle) => handle.await), 4)
    }))

  it.effect("a handler can postpone its task, and no attempt is counted", () =>
    Effect.gen(function*() {
      let runs = 0
      let closed = 0
      yield* start(Held.toLayer(() =>
        Effect.gen(function*() {
          yield* Effect.addFinalizer(() => Effect.sync(() => closed++))
          const { attempt } = yield* Task.CurrentTask
          if (++runs < 4) return yield* Task.snooze("10 millis")
          return attempt
        })
      ))
      const handle = yield* Held.send({ n: 1 })
      assert.strictEqual(yield* handle.await, 1)
      assert.deepStrictEqual([runs, closed], [4, 4])
      assert.deepStrictEqual(yield* outcomes(handle.id), ["Completed"])
    }))

  it.effect("interrupts an attempt that takes too long, and tries again by the policy", () =>
    Effect.gen(function*() {
      let finalized = 0
      yield* start(Slow.toLayer(({ until }) =>
        Effect.flatMap(Task.CurrentTask, ({ attempt }) => attempt >= until ? Effect.succeed(attempt) : Effect.never)
          .pipe(
            Effect.ensuring(Effect.sync(() => finalized++))
          )
      ))
      const second = yield* Slow.send({ until: 2 })
      assert.strictEqual(yield* second.await, 2)
      assert.deepStrictEqual(yield* outcomes(second.id), ["Timeout", "Completed"])

      finalized = 0
      const never = yield* Slow.send({ until: 99 })
      const error = yield* Effect.flip(never.await)
      assert.instanceOf(error, Task.TaskTimedOut)
      assert.include(error.message, "30 milliseconds")
      assert.strictEqual(finalized, 3)
      assert.deepStrictEqual(yield* outcomes(never.id), ["Timeout", "Timeout", "Timeout"])
    }))

  it.effect("a send can have a timeout of its own", () =>
    Effect.gen(function*() {
      yield* start(Held.toLayer(() => Effect.never))
      const began = performance.now()
      const slow = yield* Held.send({ n: 1 }, { timeout: "80 millis" })
      const quicker = yield* Held.send({ n: 2 }, { timeout: "40 millis" })
      assert.instanceOf(yield* Effect.flip(quicker.await), Task.TaskTimedOut)
      assert.isAtLeast(performance.now() - began, 39)
      assert.instanceOf(yield* Effect.flip(slow.await), Task.TaskTimedOut)
      assert.isAtLeast(performance.now() - began, 79)
    }))

  it.effect("does not schedule an attempt that would start too late", () =>
    Effect.gen(function*() {
      yield* start(Patient.toLayer(() =>
        Effect.flatMap(Task.CurrentTask, ({ attempt }) =>
          attempt === 1
            ? Task.fail(new Shaky({ worthIt: true, attempt }), { retry: "5 millis" })
            : new Shaky({ worthIt: true, attempt }))
      ))
      const handle = yield* Patient.send({}, { goodFor: "30 minutes" })
      assert.deepStrictEqual(yield* Effect.flip(handle.await), new Shaky({ worthIt: true, attempt: 2 }))
      const { attempts, state } = yield* record(handle.id)
      assert.deepStrictEqual({ attempts, state }, { attempts: 2, state: "FAILED" })
    }))
}
