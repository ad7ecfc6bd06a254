import { assert, it, layer } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import { Broker, type BrokerError } from "../../src/Broker.ts"
import * as MemoryBroker from "../../src/MemoryBroker.ts"
import * as Task from "../../src/Task.ts"
import { assertNotSent, assertSent, sent } from "../../src/testing/assertions.ts"
import { brokers } from "./brokers.ts"

/** What an assertion that does not hold has to say. */
const complaint = <R>(assertion: Effect.Effect<unknown, BrokerError | Task.DecodeError, R>) =>
  Effect.map(Effect.exit(assertion), (exit) => {
    if (Exit.isSuccess(exit)) return assert.fail("the assertion holds")
    const error = Cause.squash(exit.cause)
    if (!(error instanceof Error)) return assert.fail("no Error")
    assert.strictEqual(error.name, "AssertionError", error.message)
    return error
  })

/** Definitions that no other test has tasks of. */
const define = (test: string) => {
  class Mail extends Task.make(`${test}: mail`, {
    payload: {
      to: Schema.String,
      at: Schema.DateTimeUtcFromString,
      parts: Schema.Array(Schema.Struct({ n: Schema.Int }))
    },
    tags: ({ to }) => ({ to }),
    queue: "mail"
  }) {}
  class Other extends Task.make(`${test}: other`, { payload: { n: Schema.Int } }) {}
  return { Mail, Other }
}

const noon = DateTime.makeUnsafe("2030-01-01T12:00:00Z")
const mail = (to: string) => ({ to, at: noon, parts: [{ n: 1 }, { n: 2 }] })

for (const [name, broker] of Object.entries(brokers)) {
  layer(broker)(`assertions over ${name}`, (it) => {
    it.effect("sent gives the tasks of a definition, the first sent first, with decoded payloads", () =>
      Effect.gen(function*() {
        const { Mail, Other } = define("sent")
        const ada = yield* Mail.send(mail("ada"), { priority: 3, delay: "1 hour" })
        yield* Other.send({ n: 1 })
        const bob = yield* Mail.send(mail("bob"), { tags: { urgent: "yes" }, concurrencyKey: "bob" })
        const tasks = yield* sent(Mail)
        assert.deepStrictEqual(tasks.map(({ id, payload }) => [id, payload]), [
          [ada.id, mail("ada")],
          [bob.id, mail("bob")]
        ])
        const [first, second] = tasks
        assert.strictEqual(first!.state, "PENDING")
        assert.strictEqual(first!.priority, 3)
        assert.strictEqual(first!.dueAt - first!.sentAt, 3_600_000)
        assert.deepStrictEqual(first!.tags, { to: "ada" })
        assert.deepStrictEqual(second!.tags, { to: "bob", urgent: "yes" })
        assert.strictEqual(second!.concurrencyKey, "bob")
      }))

    it.effect("sent finds what has ended, and goes by its filter", () =>
      Effect.gen(function*() {
        const { Mail } = define("filter")
        const ada = yield* Mail.send(mail("ada"))
        const bob = yield* Mail.send(mail("bob"), { concurrencyKey: "b" })
        yield* Broker.use((broker) => broker.cancel({ ids: [ada.id] }))
        const ids = (...parameters: Parameters<typeof sent<typeof Mail.payloadSchema>>) =>
          Effect.map(sent(...parameters), (tasks) => tasks.map(({ id }) => id))
        assert.deepStrictEqual(yield* ids(Mail), [ada.id, bob.id])
        assert.deepStrictEqual(yield* ids(Mail, { states: ["CANCELLED"] }), [ada.id])
        assert.deepStrictEqual(yield* ids(Mail, { states: ["PENDING"] }), [bob.id])
        assert.deepStrictEqual(yield* ids(Mail, { concurrencyKey: "b" }), [bob.id])
        assert.deepStrictEqual(yield* ids(Mail, { tags: { to: "ada" } }), [ada.id])
        assert.deepStrictEqual(yield* ids(Mail, { queue: "elsewhere" }), [])
      }))

    it.effect("sent finds more than a page of tasks", () =>
      Effect.gen(function*() {
        const { Other } = define("pages")
        yield* Other.sendMany(Array.from({ length: 2500 }, (_, n) => ({ n })))
        const tasks = yield* sent(Other)
        assert.deepStrictEqual(tasks.map(({ payload }) => payload.n), Array.from({ length: 2500 }, (_, n) => n))
      }))

    it.effect("sent fails when a payload does not decode, or is of another version", () =>
      Effect.gen(function*() {
        const { Other } = define("undecodable")
        class Text extends Task.make(Other._tag, { payload: { n: Schema.String } }) {}
        class Second extends Task.make(Other._tag, {
          payload: { n: Schema.Int },
          version: 2,
          upgrade: { 1: (encoded) => encoded }
        }) {}
        const { id } = yield* Other.send({ n: 1 })
        for (const reading of [Effect.asVoid(sent(Text)), Effect.asVoid(sent(Second))]) {
          const error = yield* Effect.flip(reading)
          if (error._tag !== "DecodeError") return assert.fail(error.message)
          assert.strictEqual(error.id, id)
        }
      }))

    it.effect("assertSent holds when a task has all that is given, and gives it", () =>
      Effect.gen(function*() {
        const { Mail } = define("holds")
        const ada = yield* Mail.send(mail("ada"), { priority: 3, delay: "1 hour", concurrencyKey: "a" })
        const bob = yield* Mail.send(mail("bob"), { runAt: noon })
        for (
          const expected of [
            { payload: { to: "ada" } },
            { payload: mail("ada") },
            { payload: { to: "ada", at: noon, parts: [{ n: 1 }, {}] } },
            { payload: ({ to }: { readonly to: string }) => to.startsWith("a") },
            { state: "PENDING", priority: 3, queue: "mail", delay: "1 hour", concurrencyKey: "a" },
            { tags: { to: "ada" }, times: 1 }
          ] as const
        ) {
          const [task, ...others] = yield* assertSent(Mail, expected)
          assert.strictEqual(task.id, ada.id)
          assert.deepStrictEqual(others, [])
        }
        const [late] = yield* assertSent(Mail, { runAt: noon })
        assert.strictEqual(late.id, bob.id)
        assert.deepStrictEqual((yield* assertSent(Mail, { times: 2 })).map(({ id }) => id), [ada.id, bob.id])
      }))

    it.effect("assertSent says in what each task is not as expected", () =>
      Effect.gen(function*() {
        const { Mail } = define("differences")
        yield* Mail.send(mail("ada"), { delay: "1 hour" })
        for (
          const [expected, difference] of [
            [{ payload: { to: "bob" } }, `payload.to is "ada" instead of "bob"`],
            [{ payload: { parts: [{ n: 1 }, { n: 3 }] } }, "payload.parts[1].n is 2 instead of 3"],
            [{ payload: { parts: [] } }, `payload.parts is [{"n":1},{"n":2}] instead of []`],
            [{ payload: () => false }, "payload is not the expected one"],
            [{ state: "COMPLETED" }, `state is "PENDING" instead of "COMPLETED"`],
            [{ priority: 1 }, "priority is 100 instead of 1"],
            [{ queue: "default" }, `queue is "mail" instead of "default"`],
            [{ tags: { urgent: "yes" } }, `tags.urgent is undefined instead of "yes"`],
            [{ concurrencyKey: "a" }, `concurrencyKey is undefined instead of "a"`],
            [{ delay: "2 hours" }, "delay is 1h instead of 2h"],
            [{ payload: { to: "ada" }, priority: 1 }, "priority is 100 instead of 1"]
          ] as const
        ) {
          const { message } = yield* complaint(assertSent(Mail, expected))
          assert.include(message, `no ${Mail._tag} was sent with `)
          assert.include(message, `sent instead, ${Mail._tag}:`)
          const line = message.split("\n").at(-1)!
          assert.match(line, /"to":"ada".*, PENDING, delay 1h, priority 100/)
          assert.isTrue(line.endsWith(`: ${difference}`), line)
        }
        const { message } = yield* complaint(assertSent(Mail, { runAt: noon }))
        assert.match(message, /runAt is \S+Z instead of 2030-01-01T12:00:00.000Z$/m)
      }))

    it.effect("assertSent with times counts", () =>
      Effect.gen(function*() {
        const { Other } = define("times")
        for (const n of [1, 2, 2]) yield* Other.send({ n })
        const few = yield* complaint(assertSent(Other, { payload: { n: 2 }, times: 3 }))
        assert.include(few.message, `${Other._tag} was sent 2 times instead of 3 with payload {"n":2}`)
        const many = yield* complaint(assertSent(Other, { times: 2 }))
        assert.include(many.message, `${Other._tag} was sent 3 times instead of 2`)
        assert.include(many.message, `{"n":1}, PENDING, priority 100`)
      }))

    it.effect("assertSent shows a part of what is long", () =>
      Effect.gen(function*() {
        const { Other } = define("long")
        yield* Other.sendMany(Array.from({ length: 50 }, (_, n) => ({ n })))
        const { message } = yield* complaint(assertSent(Other, { payload: { n: 99 } }))
        assert.include(message, "and 40 more")
      }))

    it.effect("assertSent names what else was sent when there is nothing of the definition", () =>
      Effect.gen(function*() {
        const { Mail, Other } = define("others")
        for (const n of [1, 2, 3]) yield* Other.send({ n })
        const { message } = yield* complaint(assertSent(Mail))
        assert.include(message, `no ${Mail._tag} was sent`)
        assert.include(message, "sent instead:")
      }))

    it.effect("assertNotSent holds when nothing fits, and shows what does", () =>
      Effect.gen(function*() {
        const { Other } = define("not sent")
        yield* assertNotSent(Other)
        yield* Other.send({ n: 1 })
        yield* assertNotSent(Other, { payload: { n: 2 } })
        const { message } = yield* complaint(assertNotSent(Other, { payload: { n: 1 } }))
        assert.include(message, `${Other._tag} was sent with payload {"n":1}:`)
        assert.include(message, `{"n":1}, PENDING, priority 100`)
      }))
  })
}

it.effect("assertSent counts by name what else was sent, and says when there is nothing at all", () =>
  Effect.gen(function*() {
    const { Mail, Other } = define("alone")
    assert.include((yield* complaint(assertSent(Mail))).message, "nothing was sent at all")
    for (const n of [1, 2, 3]) yield* Other.send({ n })
    assert.include((yield* complaint(assertSent(Mail))).message, `sent instead:\n  ${Other._tag}, 3 times`)
  }).pipe(Effect.provide(MemoryBroker.layer)))

it.effect("a failed assertion points to where it was written", () =>
  Effect.gen(function*() {
    const { Mail } = define("stack")
    const { stack } = yield* complaint(assertSent(Mail))
    assert.match(stack?.split("\n").find((line) => line.trimStart().startsWith("at ")) ?? "", /assertions\.test\.ts/)
  }).pipe(Effect.provide(MemoryBroker.layer)))

it("assertSent refuses times that are no number of tasks", () => {
  const { Mail } = define("refused")
  for (const times of [0, -1, 1.5, Number.NaN]) assert.throws(() => assertSent(Mail, { times }), /assertNotSent/)
})
