/** Handlers for child processes that keep a processor busy. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { pbkdf2Sync } from "node:crypto"
import * as Task from "../../../src/Task.ts"

/** Does so many rounds of a hash, and says how many milliseconds that took. */
const hashes = {
  payload: { rounds: Schema.Int },
  success: Schema.Struct({ pid: Schema.Int, millis: Schema.Number })
}

/** For a worker with one child process, and for one with two. */
export class HashInOne extends Task.make("HashInOne", { ...hashes, queue: "in one" }) {}
export class HashInTwo extends Task.make("HashInTwo", { ...hashes, queue: "in two" }) {}

/** Takes its time, and keeps nobody busy. */
export class Wait extends Task.make("Wait", {
  payload: { millis: Schema.Int },
  success: Schema.Int,
  queue: "waits"
}) {}

export const hash = (rounds: number) => pbkdf2Sync("password", "salt", rounds, 32, "sha256")

const timed = ({ rounds }: { readonly rounds: number }) =>
  Effect.sync(() => {
    const from = performance.now()
    hash(rounds)
    return { pid: process.pid, millis: performance.now() - from }
  })

const WaitLive = Wait.toLayer(({ millis }) => Effect.as(Effect.sleep(millis), process.pid))

export const handlers = Layer.mergeAll(HashInOne.toLayer(timed), HashInTwo.toLayer(timed), WaitLive)
