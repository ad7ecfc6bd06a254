/** Time as processes have it, whatever clock a test has put in place. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"

export const inRealTime = Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())

/** Milliseconds by a clock that all processes of a machine share, and that never goes back. */
export const machineTime = () => Number(process.hrtime.bigint()) / 1e6
