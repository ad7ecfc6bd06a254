/** Ids of tasks: UUIDv7, which sort by the time of sending (RFC 9562, section 5.7). */
import * as Clock from "effect/Clock"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Effect from "effect/Effect"

/** Random bytes drawn at once, for 256 ids: to draw those of one takes longer than all the rest of a send. */
const supply = 4096

const fromSupply = () => {
  let bytes = new Uint8Array(0)
  let used = 0
  return (size: number) => {
    if (used + size > bytes.length) {
      bytes = globalThis.crypto.getRandomValues(new Uint8Array(Math.max(supply, size)))
      used = 0
    }
    return bytes.subarray(used, used += size)
  }
}

const random = SecureRandom.make(fromSupply())

/** Makes an id for `send`: a UUIDv7 of the real time, so that ids sort by the time of sending. */
export const makeId: Effect.Effect<string> = Effect.provideService(
  random.uuidV7(),
  Clock.Clock,
  Clock.Clock.defaultValue()
)

const uuidV7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

export const isId = (id: string) => uuidV7.test(id)

/** When an id was made, in milliseconds since the epoch. */
export const timeOfId = (id: string): number | undefined =>
  isId(id) ? Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16) : undefined
