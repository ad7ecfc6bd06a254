/** What heartbeats tell about the time for which the server has been reachable. */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { Broker } from "../../src/Broker.ts"
import { advance, lease, recover, startWorker } from "../contract/Harness.ts"
import * as PostgresHarness from "../contract/postgresHarness.ts"

const reachableFor = (worker: string) =>
  Effect.map(Broker.use((broker) => broker.heartbeat(worker, [])), (beat) => beat.reachableFor)

/** Time of the database passes, and nobody beats. */
const silence = advance(lease * 0.7)

layer(PostgresHarness.broker)("heartbeats", (it) => {
  it.effect("count from the first worker, from which later ones carry on", () =>
    Effect.gen(function*() {
      yield* silence
      const first = yield* startWorker
      assert.isBelow(yield* reachableFor(first), 1000)
      yield* advance(lease / 2)
      const second = yield* startWorker
      yield* advance(lease / 2)
      assert.isAtLeast(yield* reachableFor(second), lease)
    }))

  it.effect("count anew when none has come for two thirds of a lease, for everybody", () =>
    Effect.gen(function*() {
      const [one, two] = [yield* startWorker, yield* startWorker]
      yield* silence
      assert.isBelow(yield* reachableFor(one), 1000)
      yield* advance(lease / 2)
      const since = yield* reachableFor(two)
      assert.isAtLeast(since, lease / 2)
      assert.isBelow(since, lease)
    }))

  it.effect("count on for one that was silent while another was not, and for one that comes after the dead", () =>
    Effect.gen(function*() {
      const [silent, steady] = [yield* startWorker, yield* startWorker]
      const before = yield* reachableFor(steady)
      for (let i = 0; i < 4; i++) yield* Effect.andThen(advance(lease / 2), reachableFor(steady))
      assert.isAtLeast(yield* reachableFor(silent), before + 2 * lease)
      for (let i = 0; i < 4; i++) yield* Effect.andThen(advance(lease / 2), reachableFor(steady))
      assert.isAtLeast((yield* recover).workers, 1)
      yield* Broker.use((broker) => broker.deregister(steady))
      // Its own first heartbeat comes long after the last one of the dead.
      assert.isBelow(yield* reachableFor(yield* startWorker), 1000)
    }))
})
