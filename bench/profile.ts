/** V8's sampling profiler over a part of a process's life. */
import * as Effect from "effect/Effect"
import { Session } from "node:inspector/promises"

export interface Profile {
  /** The profile, as DevTools and speedscope read it. */
  readonly stop: Effect.Effect<string, unknown>
}

const samplingInterval = 200 // microseconds

export const startProfile: Effect.Effect<Profile, unknown> = Effect.tryPromise(async () => {
  const session = new Session()
  session.connect()
  await session.post("Profiler.enable")
  await session.post("Profiler.setSamplingInterval", { interval: samplingInterval })
  await session.post("Profiler.start")
  return {
    stop: Effect.tryPromise(async () => {
      const { profile } = await session.post("Profiler.stop")
      session.disconnect()
      return JSON.stringify(profile)
    })
  }
})
