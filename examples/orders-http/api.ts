/** What the shop offers over HTTP. Clients need this file and nothing else of the service. */
import { Schema } from "effect"
import { HttpApi, HttpApiEndpoint, HttpApiGroup } from "effect/http-api"

export class Order extends Schema.Class<Order>("Order")({
  id: Schema.Int,
  placedAt: Schema.Date,
  /** Where to ask for the tracking code. */
  shipment: Schema.String
}) {}

export class NotInStock extends Schema.TaggedError<NotInStock>()(
  "NotInStock",
  { sku: Schema.String },
  { httpApiStatus: 409 }
) {}

export class NoSuchShipment extends Schema.TaggedError<NoSuchShipment>()(
  "NoSuchShipment",
  { id: Schema.String },
  { httpApiStatus: 404 }
) {}

export class Api extends HttpApi.make("shop").add(
  HttpApiGroup.make("orders").add(
    HttpApiEndpoint.post("place", "/orders", {
      payload: Schema.Struct({ sku: Schema.String, quantity: Schema.Int.check(Schema.isGreaterThan(0)) }),
      success: Order,
      error: NotInStock
    }),
    HttpApiEndpoint.get("track", "/shipments/:id", {
      params: { id: Schema.String.check(Schema.isUUID()) },
      success: Schema.Struct({ trackingCode: Schema.String }),
      error: NoSuchShipment
    })
  )
) {}
