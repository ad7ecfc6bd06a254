/** What a definition and the options of a send may hold. Each check gives what to write instead, or nothing. */
import * as Duration from "effect/Duration"
import { highestPriority, lowestPriority, type Tags } from "../Broker.ts"

/** The most that a JSON text may have, in bytes or characters: what is larger than a message of the driver is never read. */
export const mostJson = 4_000_000

/** The last time that every broker can store: the end of the year 9999. */
export const latestTime = Date.UTC(10_000, 0, 1) - 1

/** The longest duration that every broker can store, in milliseconds. */
export const longest = latestTime / 4

/** The length of a duration between 0 and 2000 years, in milliseconds. */
export const millisOf = (input: Duration.Input): number | undefined => {
  const duration = Duration.fromInput(input)
  const millis = duration._tag === "Some" ? Duration.toMillis(duration.value) : Number.NaN
  return millis >= 0 && millis <= longest ? millis : undefined
}

/** The length of a duration of more than 0, in whole milliseconds. */
export const spanOf = (input: Duration.Input): number | undefined => {
  const millis = millisOf(input)
  return millis === undefined || millis === 0 ? undefined : Math.ceil(millis)
}

export const spanRule = "a duration of more than 0 and up to 2000 years"

export const isPriority = (priority: number) =>
  Number.isInteger(priority) && priority >= highestPriority && priority <= lowestPriority

export const priorityRule = `a whole number from ${highestPriority} to ${lowestPriority}`

const mostLetters = 255
const unstorable = /\0|\p{Surrogate}/u

/** Whether a text can be a name or a key: every broker can store it and index it. */
export const isKey = (text: string) =>
  typeof text === "string" && text !== "" && text.length <= mostLetters && !unstorable.test(text)

export const keyRule = `1 to ${mostLetters} characters, without NUL and lone surrogates`

/** What is wrong with some tags. */
export const wrongTag = (tags: Tags): string | undefined => {
  for (const [key, value] of Object.entries(tags)) {
    if (!isKey(key)) return `tags has the key ${JSON.stringify(key)}; write ${keyRule}`
    if (value !== "" && !isKey(value)) {
      return `tags has the value ${JSON.stringify(value)}; write up to ${keyRule.slice(5)}`
    }
  }
  return undefined
}
