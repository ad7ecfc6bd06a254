/** A module for child processes that has layers, but no handlers. */
import * as Layer from "effect/Layer"

export const nothing = Layer.empty
