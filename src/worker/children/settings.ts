/** The settings of the database on their way to a child process. Nobody else can read the channel. */
import * as Duration from "effect/Duration"
import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import type { PostgresConfig } from "../../PostgresConfig.ts"

/** The argument of a child that logs to stderr. */
export const logsToStderr = "stderr"

const duration = "~duration"
const secret = "~secret"

const plain = (value: unknown): unknown => {
  if (Duration.isDuration(value)) return { [duration]: Duration.toMillis(value) }
  if (Redacted.isRedacted(value)) return { [secret]: Redacted.value(value) }
  if (Array.isArray(value)) return value.map(plain)
  if (!Predicate.isObject(value)) return value
  return Object.fromEntries(Object.entries(value).map(([key, value]) => [key, plain(value)]))
}

/** The settings as text, secrets included. */
export const encode = (config: PostgresConfig["Service"]): string => JSON.stringify(plain(config))

/** The settings that were encoded. What was absent is absent again. */
export const decode = (text: string): PostgresConfig["Service"] =>
  JSON.parse(text, (_, value: unknown) => {
    if (Predicate.hasProperty(value, duration)) return Duration.millis(value[duration] as number)
    if (Predicate.hasProperty(value, secret)) return Redacted.make(value[secret])
    return value
  }) as PostgresConfig["Service"]
