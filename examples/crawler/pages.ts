/** Handlers with more to say than success or failure, a payload that has changed, and a handler of whole batches. */
import { Context, Duration, Effect, Exit, Option, Schema } from "effect"
import { Task } from "effect-horsies"

export class Gone extends Schema.TaggedError<Gone>()("Gone", { url: Schema.String }) {}

export class TooManyRequests extends Schema.TaggedError<TooManyRequests>()("TooManyRequests", {
  /** Seconds. */
  retryAfter: Schema.Number
}) {}

export class Web extends Context.Service<Web, {
  /** None: the page is being made; ask again later. */
  readonly get: (url: string) => Effect.Effect<Option.Option<string>, Gone | TooManyRequests>
}>()("crawler/Web") {}

export class SearchIndex extends Context.Service<SearchIndex, {
  readonly add: (texts: ReadonlyArray<string>) => Effect.Effect<void>
}>()("crawler/SearchIndex") {}

export class Fetch extends Task.make("Fetch", {
  payload: { url: Schema.String, depth: Schema.Int },
  error: Schema.Union([Gone, TooManyRequests]),
  retry: { times: 5 },
  timeout: "30 seconds",
  // In version 1 the payload was the URL alone. Tasks of then may wait still, or be sent by a process not yet replaced.
  version: 2,
  upgrade: { 1: (url) => ({ url, depth: 0 }) }
}) {}

export class Index extends Task.make("Index", { payload: { text: Schema.String } }) {}

export const FetchLive = Fetch.toLayer(
  Effect.fn("fetch")(function*({ url }) {
    const page = yield* Web.use((web) => web.get(url)).pipe(
      Effect.catchTags({
        Gone: (error) => Task.fail(error, { retry: false }), // no other attempt can help
        TooManyRequests: (error) => Task.fail(error, { retry: Duration.seconds(error.retryAfter) })
      })
    )
    if (Option.isNone(page)) return yield* Task.snooze("10 minutes") // runs again, and no attempt is counted
    yield* Effect.orDie(Index.send({ text: page.value }))
  })
)

// Up to a hundred that are ready at once; one that is alone does not wait for others.
export const IndexLive = Index.toBatchLayer(
  Effect.fn("index")(function*(batch) {
    yield* SearchIndex.use((index) => index.add(batch.map(({ payload }) => payload.text)))
    return batch.map(() => Exit.void)
  }),
  { size: 100 }
)
