/** Money moves exactly once, although the task is sent twice and its first attempt fails half-way. */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Layer, Schedule, Schema } from "effect"
import { Task, Worker } from "effect-horsies"
import { SqlClient } from "effect/sql"
import { Broker } from "../Database.ts"

class LedgerClosed extends Schema.TaggedError<LedgerClosed>()("LedgerClosed", {}) {}

class Receipt extends Task.make("Receipt", { payload: { invoice: Schema.Int }, success: Schema.String }) {}

class Pay extends Task.make("Pay", {
  payload: { invoice: Schema.Int, amount: Schema.Int },
  success: Schema.String,
  error: LedgerClosed,
  // However often it is sent, an invoice is paid once: for a month, sending it again gives the first task.
  idempotencyKey: ({ invoice }) => `invoice ${invoice}`,
  idempotencyWindow: "30 days",
  retry: { times: 3, schedule: Schedule.exponential("100 millis") }
}) {}

const pay = Effect.fn("pay")(function*({ amount, invoice }: Task.Payload<typeof Pay>) {
  const sql = yield* SqlClient.SqlClient
  const { attempt } = yield* Task.CurrentTask
  yield* Console.log(`attempt ${attempt}`)
  yield* sql`update accounts set balance = balance - ${amount} where owner = 'customer'`
  const receipt = yield* Receipt.send({ invoice })
  if (attempt === 1) return yield* new LedgerClosed()
  yield* sql`update accounts set balance = balance + ${amount} where owner = 'shop'`
  return receipt.id
}, Effect.catchTag(["SqlError", "BrokerError", "PayloadError"], Effect.die))

// What the handler writes, the receipt that it sends, and the outcome of the task: one commit, or nothing of it.
const PayLive = Pay.toLayer(pay, { transaction: true })

const ReceiptLive = Receipt.toLayer(({ invoice }) => Effect.succeed(`invoice ${invoice} is paid`))

const program = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql`create table accounts (owner text primary key, balance int not null)`
  yield* sql`insert into accounts values ('customer', 100), ('shop', 0)`

  const payment = yield* Pay.send({ invoice: 7, amount: 40 })
  const again = yield* Pay.send({ invoice: 7, amount: 40 })

  const receipt = yield* payment.await
  yield* Console.log(yield* Receipt.await(receipt))
  yield* Console.log("sending it again stored nothing:", again.duplicate && again.id === payment.id)
  yield* Console.log("accounts:", yield* sql`select owner, balance from accounts order by owner`)
  yield* Console.log("receipts:", (yield* sql`select from horsies_history where name = 'Receipt'`).length)
})

const Live = Layer.merge(PayLive, ReceiptLive).pipe(Layer.provideMerge(Worker.layer()), Layer.provideMerge(Broker))

program.pipe(Effect.provide(Live), NodeRuntime.runMain)
