/** What an orchestrator is told. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as HttpRouter from "effect/http/HttpRouter"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import { routes } from "../../src/cli/healthServer.ts"
import * as Health from "../../src/Health.ts"
import * as Worker from "../../src/Worker.ts"

const connected = { status: "connected", since: 0, reconnects: 0, lastError: undefined, roundTrip: undefined } as const

/** The codes that /health and /ready answer with. */
const codes = (
  options: { readonly alive: boolean; readonly stopping: boolean; readonly ready: boolean; readonly healthy: boolean }
) =>
  Effect.gen(function*() {
    const { alive, healthy, ready, stopping } = options
    const report: Health.Report = {
      healthy,
      pool: { ...connected, connections: { size: 1, overflow: 0, open: 1, inUse: 0, waiting: 0 } },
      session: connected
    }
    const services = Layer.merge(
      Layer.succeed(Worker.Worker, {
        status: Effect.succeed({ id: "some", alive, stopping, ready, running: 1, claimed: 0 }),
        shutdown: Effect.void,
        shutdownNow: Effect.void
      }),
      Layer.succeed(Health.Health, { report: Effect.succeed(report), changes: Stream.empty, ready: Effect.void })
    )
    const { dispose, handler } = HttpRouter.toWebHandler(Layer.provide(routes, services), { disableLogger: true })
    const get = (path: string) => Effect.promise(() => handler(new Request(`http://localhost${path}`)))
    const found = [(yield* get("/health")).status, (yield* get("/ready")).status]
    yield* Effect.promise(dispose)
    return found
  })

const well = { alive: true, stopping: false, ready: true, healthy: true }

describe("the health of a worker's process", () => {
  it.live("is good while the worker is alive and connected", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* codes(well), [200, 200])
    }))

  it.live("is bad when it cannot prove its lease, whatever its connections are", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* codes({ ...well, alive: false }), [503, 200])
    }))

  it.live("is good without connections, but it is not ready", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* codes({ ...well, healthy: false }), [200, 503])
    }))

  it.live("is good while it stops, but it is not ready", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* codes({ ...well, stopping: true, ready: false }), [200, 503])
    }))

  it.live("is good while there is no child process, but it is not ready", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* codes({ ...well, ready: false }), [200, 503])
    }))
})
