/** Placing an order stores a row and sends the task that ships it, in one transaction: both happen or neither does. */
import { Context, Effect, Layer, Schema } from "effect"
import { Task } from "effect-horsies"
import { HttpApiBuilder } from "effect/http-api"
import { SqlClient } from "effect/sql"
import { Api, NoSuchShipment, NotInStock, Order } from "./api.ts"

export class ShipOrder extends Task.make("ShipOrder", {
  payload: { orderId: Schema.Int, sku: Schema.String, quantity: Schema.Int },
  success: Schema.String,
  retry: { times: 10 }
}) {}

/** The world outside. Asked to ship an order that it has shipped before, it gives the same tracking code again. */
export class Warehouse extends Context.Service<Warehouse, {
  readonly ship: (orderId: number, sku: string, quantity: number) => Effect.Effect<string>
}>()("orders-http/Warehouse") {
  static readonly layer = Layer.succeed(Warehouse, {
    ship: (orderId) => Effect.succeed(`PARCEL-${orderId}`)
  })
}

// A handler can run more than once: its worker may be lost after the call and before the success is recorded. The
// order's id goes along, so that the warehouse can tell.
export const ShipOrderLive = ShipOrder.toLayer(({ orderId, quantity, sku }) =>
  Warehouse.use((warehouse) => warehouse.ship(orderId, sku, quantity))
)

const place = Effect.fn("place")(function*(sku: string, quantity: number) {
  const sql = yield* SqlClient.SqlClient
  const [order] = yield* sql<{ readonly id: number; readonly placedAt: Date }>`
    insert into orders ${sql.insert({ productSku: sku, quantity })} returning id, placed_at`
  const { id: shipment } = yield* ShipOrder.send({ orderId: order!.id, sku, quantity })
  // The database has the last word: a check keeps the stock from going below zero. When it fails, there is no order and
  // no task; when it holds, a worker starts with the commit.
  yield* sql`update products set in_stock = in_stock - ${quantity} where sku = ${sku}`
  return new Order({ ...order!, shipment })
})

export const OrdersLive = HttpApiBuilder.group(
  Api,
  "orders",
  Effect.fnUntraced(function*(handlers) {
    const sql = yield* SqlClient.SqlClient
    return handlers.handleAll({
      place: ({ payload: { quantity, sku } }) =>
        sql.withTransaction(place(sku, quantity)).pipe(
          Effect.catchReason("SqlError", "ConstraintError", () => Effect.fail(new NotInStock({ sku }))),
          // The client can do nothing about the others: status 500.
          Effect.catchTag(["SqlError", "BrokerError", "PayloadError"], Effect.die)
        ),
      track: ({ params: { id } }) =>
        // Waits for as long as the client does: when it hangs up, the wait is interrupted.
        ShipOrder.await(id).pipe(
          Effect.map((trackingCode) => ({ trackingCode })),
          Effect.catchTag(
            ["TaskNotFound", "ResultNotKept"],
            () => Effect.fail(new NoSuchShipment({ id })),
            (error) => Effect.die(error)
          )
        )
    })
  })
)
