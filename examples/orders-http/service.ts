/** How the parts of the service are put together. */
import { NodeServices } from "@effect/platform-node"
import { PgClient, PgMigrator } from "@effect/sql-pg"
import { Config, Effect, Layer, String } from "effect"
import { PostgresBroker } from "effect-horsies"
import { HttpRouter } from "effect/http"
import { HttpApiBuilder } from "effect/http-api"
import { SqlClient } from "effect/sql"
import { Api } from "./api.ts"
import { OrdersLive } from "./orders.ts"

const databaseUrl = Config.Redacted("DATABASE_URL")

// The service's own client, with the names that it likes: the broker does not mind.
const Sql = PgClient.layerConfig({
  url: databaseUrl,
  transformQueryNames: Config.succeed(String.camelToSnake),
  transformResultNames: Config.succeed(String.snakeToCamel)
})

const createShop = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql`create table products (sku text primary key, in_stock int not null check (in_stock >= 0))`
  yield* sql`create table orders (
    id int generated always as identity primary key,
    product_sku text not null references products,
    quantity int not null,
    placed_at timestamptz not null default now()
  )`
  yield* sql`insert into products ${sql.insert({ sku: "horseshoe", inStock: 8 })}`
})

const Tables = PgMigrator.layer({ loader: PgMigrator.fromRecord({ "1_shop": createShop }) }).pipe(
  Layer.provide(NodeServices.layer)
)

// The broker works over the same client: what is sent inside a transaction of that client belongs to the transaction.
// With `session` it opens one connection of its own, on which it hears at once what other processes send and finish.
const Broker = Layer.unwrap(Effect.gen(function*() {
  return PostgresBroker.layerSqlClient({ session: { databaseUrl: yield* databaseUrl } })
}))

export const Database = Layer.merge(Broker, Tables).pipe(Layer.provideMerge(Sql))

export const Web = HttpRouter.serve(HttpApiBuilder.layer(Api).pipe(Layer.provide(OrdersLive)))
