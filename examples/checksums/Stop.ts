/** Open when the run is to stop: nothing more is sent, and what was sent ends as it is. */
import { Context, Latch, Layer } from "effect"

export class Stop extends Context.Service<Stop, Latch.Latch>()("checksums/Stop") {
  static readonly layer = Layer.effect(Stop, Latch.make())
}
