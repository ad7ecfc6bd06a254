import { assert, it } from "@effect/vitest"
import { Duration, Effect, Layer, Option, Schema } from "effect"
import { MemoryBroker, Monitor, Task, Worker } from "effect-horsies"
import { assertSent } from "effect-horsies/testing/assertions"
import * as TestWorker from "effect-horsies/testing/TestWorker"
import { Fetch, FetchLive, Gone, Index, IndexLive, SearchIndex, TooManyRequests, Web } from "./pages.ts"

/** A web of one page, which answers in its own way each time: this is what it says, one after another. */
const web = (...answers: ReadonlyArray<Effect.Effect<Option.Option<string>, Gone | TooManyRequests>>) => {
  let asked = 0
  return FetchLive.pipe(
    Layer.provide(Layer.mock(Web, { get: () => answers[asked++] ?? Effect.succeedSome("a page") })),
    Layer.provideMerge(TestWorker.layer),
    Layer.provideMerge(MemoryBroker.layer)
  )
}

const page = { url: "https://example.com", depth: 1 }

it.effect("waits for as long as the web says, and no longer than it is worth", () =>
  Effect.gen(function*() {
    const { id } = yield* Fetch.send(page)
    yield* TestWorker.runNext
    const { dueAt, sentAt } = Option.getOrThrow(yield* Monitor.task(id))
    assert.strictEqual(dueAt - sentAt, 90_000)
    yield* TestWorker.drain({ due: true })
    assert.strictEqual(Option.getOrThrow(yield* Monitor.task(id)).state, "FAILED")
    assert.deepStrictEqual(yield* Effect.flip(Fetch.await(id)), new Gone({ url: page.url }))
  }).pipe(Effect.provide(web(
    Effect.fail(new TooManyRequests({ retryAfter: 90 })),
    Effect.fail(new Gone({ url: page.url }))
  ))))

it.effect("asks again in ten minutes when the page is not there yet, and counts no attempt", () =>
  Effect.gen(function*() {
    const { id } = yield* Fetch.send(page)
    yield* TestWorker.runNext
    const { attempts, dueAt, sentAt } = Option.getOrThrow(yield* Monitor.task(id))
    assert.deepStrictEqual([attempts, dueAt - sentAt], [0, 600_000])
    yield* TestWorker.drain({ due: true })
    yield* assertSent(Index, { payload: { text: "a page" } })
  }).pipe(Effect.provide(web(Effect.succeedNone))))

it.effect("understands what an older version has sent", () => {
  class OldFetch extends Task.make("Fetch", { payload: Schema.String }) {}
  return Effect.gen(function*() {
    const { id } = yield* OldFetch.send("https://example.com")
    yield* TestWorker.drain()
    assert.strictEqual(yield* Fetch.await(id), undefined)
  }).pipe(Effect.provide(web()))
})

it.effect("tells beforehand when it would try again", () =>
  Effect.gen(function*() {
    const delays = yield* Task.retryTimes(Fetch)
    assert.strictEqual(delays.length, 5)
    assert.isBelow(Duration.toMillis(delays[0]!), Duration.toMillis(delays[4]!))
  }))

it.effect("adds pages to the index together", () => {
  const added: Array<ReadonlyArray<string>> = []
  const Live = IndexLive.pipe(
    Layer.provide(Layer.mock(SearchIndex, { add: (texts) => Effect.sync(() => void added.push(texts)) })),
    Layer.provide(Worker.layer())
  )
  return Effect.gen(function*() {
    yield* Index.sendMany(["a", "b", "c"].map((text) => ({ text })))
    const { await: done } = yield* Index.send({ text: "d" })
    yield* Effect.provide(done, Live)
    assert.deepStrictEqual(added, [["a", "b", "c", "d"]])
  }).pipe(Effect.provide(MemoryBroker.layer))
})
