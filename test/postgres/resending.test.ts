/** Sending failed tasks again, more than one statement can. */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Broker } from "../../src/Broker.ts"
import * as Task from "../../src/Task.ts"
import * as TestBroker from "../support/TestBroker.ts"
import { start, until } from "../support/worker.ts"

class Doomed extends Task.make("Doomed", { payload: { n: Schema.Int }, queue: "doomed" }) {}

layer(TestBroker.layer, { excludeTestServices: true, timeout: "30 seconds" })(
  "sending all failed tasks again",
  (it) => {
    it.effect("sends each once, although those that were sent again fail at once", () =>
      Effect.gen(function*() {
        const count = 3000
        yield* start(Doomed.toLayer(() => Effect.die("no")), { queues: { doomed: { concurrency: 50 } } })
        yield* Doomed.sendMany(Array.from({ length: count }, (_, n) => ({ n })))
        const failed = (more: number) =>
          until(`select count(*) = ${more} from horsies_history where name = 'Doomed' and state = 'FAILED'`)
        yield* failed(count)
        const again = yield* Broker.use((broker) => broker.resend({ name: "Doomed" }))
        assert.strictEqual(new Set(again.map(({ origin }) => origin)).size, count)
        assert.lengthOf(again, count)
        yield* failed(2 * count)
      }), 60_000)
  }
)
