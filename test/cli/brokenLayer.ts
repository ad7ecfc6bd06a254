/** A module whose layer cannot be built. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"

export const broken = Layer.effectDiscard(Effect.fail("there is no such thing"))
