/** Time as sockets have it. */
import * as Clock from "effect/Clock"

/** The real clock, whatever a test has put in its place. */
export const realClock = Clock.Clock.defaultValue()

/** Milliseconds that never go back. */
export const monotonic = (): number => Number(realClock.monotonicTimeNanosUnsafe()) / 1e6
