import { NodeHttpServer } from "@effect/platform-node"
import { assert, it, layer } from "@effect/vitest"
import { ConfigProvider, Effect, Layer, Logger, Redacted } from "effect"
import { Worker } from "effect-horsies"
import { FetchHttpClient, HttpClient, HttpClientRequest } from "effect/http"
import { HttpApiClient } from "effect/http-api"
import { SqlClient } from "effect/sql"
import { fileURLToPath } from "node:url"
import { start } from "../../test/support/program.ts"
import { TestDatabase } from "../../test/support/TestDatabase.ts"
import { Api } from "./api.ts"
import { ShipOrderLive, Warehouse } from "./orders.ts"
import { Database, Web } from "./service.ts"

/** What the warehouse was asked to ship. */
const shipped: Array<{ readonly sku: string; readonly quantity: number }> = []

const RecordingWarehouse = Layer.succeed(Warehouse, {
  ship: (orderId, sku, quantity) =>
    Effect.sync(() => {
      shipped.push({ sku, quantity })
      return `PARCEL-${orderId}`
    })
})

const Settings = Layer.unwrap(Effect.gen(function*() {
  const { url } = yield* TestDatabase
  return ConfigProvider.layer(ConfigProvider.fromUnknown({ DATABASE_URL: Redacted.value(url) }))
}))

// Both parts of the service in this process, on a free port and a database of its own, and an HttpClient that talks to it
// over the network.
const Running = Layer.merge(Web, Layer.provide(ShipOrderLive, Worker.layer())).pipe(
  Layer.provideMerge(Database),
  Layer.provideMerge(NodeHttpServer.layerTest),
  Layer.provide(RecordingWarehouse),
  Layer.provide(Settings),
  Layer.provide(Logger.layer([])),
  Layer.provide(TestDatabase.layer)
)

layer(Running, { excludeTestServices: true, timeout: "30 seconds" })("orders over HTTP", (it) => {
  it.effect("ships an order whose transaction was committed, never one whose transaction was rolled back", () =>
    Effect.gen(function*() {
      const { orders } = yield* HttpApiClient.make(Api)
      const sql = yield* SqlClient.SqlClient

      const tooMany = yield* Effect.flip(orders.place({ payload: { sku: "horseshoe", quantity: 9 } }))
      assert.strictEqual(tooMany._tag, "NotInStock")
      const unknown = yield* Effect.flip(orders.place({ payload: { sku: "unicorn", quantity: 1 } }))
      assert.strictEqual(unknown._tag, "NotInStock")

      const order = yield* orders.place({ payload: { sku: "horseshoe", quantity: 4 } })
      const { trackingCode } = yield* orders.track({ params: { id: order.shipment } })
      assert.strictEqual(trackingCode, `PARCEL-${order.id}`)

      assert.deepStrictEqual(shipped, [{ sku: "horseshoe", quantity: 4 }])
      assert.deepStrictEqual(
        yield* sql`select in_stock, (select count(*)::int from orders) as orders from products`,
        [{ inStock: 4, orders: 1 }]
      )
      // Nor will it run later: all that the broker has ever stored is the one task that has run.
      assert.deepStrictEqual(
        yield* sql`select id as task, 'ended' as place from horsies_history union all select id, 'live' from horsies_tasks`,
        [{ task: order.shipment, place: "ended" }]
      )
    }))

  it.effect("answers 404 for a shipment that there is not", () =>
    Effect.gen(function*() {
      const { orders } = yield* HttpApiClient.make(Api)
      const error = yield* Effect.flip(orders.track({ params: { id: "00000000-0000-7000-8000-000000000000" } }))
      assert.strictEqual(error._tag, "NoSuchShipment")
    }))
})

const startHere = (file: string, env: Readonly<Record<string, string>>) =>
  start(fileURLToPath(new URL(file, import.meta.url)), { env })

it.live("runs as a server and a worker, each a process of its own", () =>
  Effect.gen(function*() {
    const DATABASE_URL = Redacted.value((yield* TestDatabase).url)
    const web = yield* startHere("web.ts", { DATABASE_URL, PORT: "0" })
    const worker = yield* startHere("worker.ts", { DATABASE_URL })

    const port = /:(\d+)$/.exec(yield* web.firstLine)?.[1]
    const { orders } = yield* HttpApiClient.make(Api, {
      transformClient: HttpClient.mapRequest(HttpClientRequest.prependUrl(`http://127.0.0.1:${port}`))
    })
    const order = yield* orders.place({ payload: { sku: "horseshoe", quantity: 1 } })
    const { trackingCode } = yield* orders.track({ params: { id: order.shipment } })
    assert.strictEqual(trackingCode, "PARCEL-1")

    yield* Effect.forEach([web, worker], (process) => Effect.andThen(process.signalGroup("SIGTERM"), process.ended))
  }).pipe(Effect.provide([TestDatabase.layer, FetchHttpClient.layer])))
