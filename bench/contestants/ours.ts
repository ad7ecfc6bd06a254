/** effect-horsies with default settings: one worker, what has ended is kept. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Worker from "../../src/Worker.ts"
import type { Contestant } from "../contestant.ts"
import * as Broker from "./broker.ts"

export const contestant: Contestant = {
  sender: Broker.sender,
  worker: (url, ran) =>
    Broker.Noop.toLayer(({ n }) => Effect.sync(() => ran(n))).pipe(
      Layer.provide(Worker.layer()),
      Layer.provide(Broker.layer(url)),
      Layer.build
    )
}
