import { assert, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as SqlClient from "effect/sql/SqlClient"
import * as TestClock from "effect/testing/TestClock"
import { Broker } from "../../src/Broker.ts"
import * as MemoryBroker from "../../src/MemoryBroker.ts"
import { brokerContract, Harness } from "../../src/testing/contract.ts"
import { newTask, send } from "./Harness.ts"

const harness = Layer.succeed(Harness, { advance: TestClock.adjust, now: Clock.currentTimeMillis })

brokerContract("MemoryBroker", Layer.merge(MemoryBroker.layer, harness), { excludeTestServices: false })

/** The transactions of a client whose database does nothing. */
class Transaction extends Context.Service<Transaction, readonly [connection: undefined, depth: number]>()(
  "effect-horsies/test/contract/Transaction"
) {}

const withTransaction = SqlClient.makeWithTransaction({
  transactionService: Transaction,
  spanAttributes: [],
  acquireConnection: () => Effect.succeed(undefined),
  begin: () => Effect.void,
  savepoint: () => Effect.void,
  commit: () => Effect.void,
  rollback: () => Effect.void,
  rollbackSavepoint: () => Effect.void
})

it.effect("a send inside a transaction is refused by the broker in memory, also in a nested one", () =>
  Effect.gen(function*() {
    const broker = yield* Broker
    const task = newTask()
    for (const inside of [withTransaction(send(task)), withTransaction(withTransaction(send(task)))]) {
      const error = yield* Effect.flip(inside)
      if (error._tag !== "BrokerError" || error.reason._tag !== "Misconfigured") return assert.fail(error.message)
      assert.strictEqual(error.reason.field, "transaction")
      assert.strictEqual(error.reason.code, "TRANSACTIONS_UNSUPPORTED")
      assert.isFalse(error.isRetryable)
    }
    assert.isTrue(Option.isNone(yield* broker.find(task.id)))
    // After the transaction nothing of it is left.
    assert.lengthOf(yield* Effect.andThen(withTransaction(Effect.void), send(task)), 1)
  }).pipe(Effect.provide(MemoryBroker.layer)))

it.effect("what runs after the commit of a transaction can send to the broker in memory", () =>
  Effect.gen(function*() {
    const broker = yield* Broker
    const task = newTask()
    // As `afterCommit` runs it.
    const outside = Effect.updateContext(
      send(task),
      (context: Context.Context<Broker>) => Context.add(Context.omit(Transaction)(context), Broker, broker)
    )
    yield* withTransaction(outside)
    assert.isTrue(Option.isSome(yield* broker.find(task.id)))
  }).pipe(Effect.provide(MemoryBroker.layer)))
