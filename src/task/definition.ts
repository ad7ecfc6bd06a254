/** What `Task.make` makes of its options: a definition whose every part is checked. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { type Definition as Known, lowestPriority, type Tags } from "../Broker.ts"
import { type CodecError, type JsonCodec, jsonCodec, type Upgrade, versionedDecode } from "./codec.ts"
import { defaultQueue } from "./CurrentTask.ts"
import { isKey, isPriority, keyRule, mostJson, priorityRule, spanOf, spanRule } from "./limits.ts"
import type { Retry } from "./retrying.ts"

/** A payload: a schema of any kind, or the fields of a struct. */
export type AnyPayload = Schema.Top | Schema.Struct.Fields

/** The schema of a payload. */
export type PayloadSchema<P extends AnyPayload> = P extends Schema.Top ? P
  : P extends Schema.Struct.Fields ? Schema.Struct<P>
  : never

/** What a definition says beside its name. */
export interface Options<Payload extends AnyPayload, Success extends Schema.Top, Error extends Schema.Top> {
  /** A schema, or the fields of a struct. Default: nothing. */
  readonly payload?: Payload | undefined
  /** What handlers succeed with. Default: nothing. */
  readonly success?: Success | undefined
  /** What handlers fail with. Default: no typed error. */
  readonly error?: Error | undefined
  /** Default: `"default"`. */
  readonly queue?: string | undefined
  /** From 1, the most urgent, to 100, the default. */
  readonly priority?: number | undefined
  /** How failed attempts are repeated. Without it, a failed attempt ends the task. */
  readonly retry?: Retry<Error["Type"]> | undefined
  /** Whether a task whose worker was lost runs again, up to three losses (the default), or ends FAILED. */
  readonly onWorkerLost?: "retry" | "fail" | undefined
  /** The version of the payload's encoding, from 1, the default. Workers that know only older ones leave a task alone. */
  readonly version?: number | undefined
  /**
   * Steps that bring the encoding of version n to version n + 1, by n; one for each version below `version`. They are
   * applied to tasks of older versions before their payload is decoded. A step that throws ends its task FAILED.
   */
  readonly upgrade?: Upgrade | undefined
  /** Whose task it is: keys of a queue take turns, and can have limits of their own. 1 to 255 characters. */
  readonly concurrencyKey?: ((payload: PayloadSchema<Payload>["Type"]) => string) | undefined
  /**
   * At most one task of this definition with this key is stored inside `idempotencyWindow`: sending again gives the
   * handle of the first. 1 to 255 characters.
   */
  readonly idempotencyKey?: ((payload: PayloadSchema<Payload>["Type"]) => string) | undefined
  /** How long an idempotency key is kept. Default: 1 day. */
  readonly idempotencyWindow?: Duration.Input | undefined
  /** Keys and values by which its tasks can be found. */
  readonly tags?: ((payload: PayloadSchema<Payload>["Type"]) => Tags) | undefined
  /** How long one attempt may take: then its handler is interrupted, and the retry policy applies. Default: no limit. */
  readonly timeout?: Duration.Input | undefined
  /** How long an ended task is kept. Default: the broker's `retention`. */
  readonly retention?: Duration.Input | undefined
  /** The most bytes of UTF-8 that the JSON of a payload may have. Default, and most: 4,000,000. */
  readonly payloadLimit?: number | undefined
}

/** A definition, ready for use: what workers make known of it, and what only this program needs. */
export interface Definition<Payload extends Schema.Top, Success extends Schema.Top, Error extends Schema.Top>
  extends Known
{
  readonly retry: Retry<Error["Type"]> | undefined
  readonly concurrencyKey: ((payload: Payload["Type"]) => string) | undefined
  readonly idempotencyKey: ((payload: Payload["Type"]) => string) | undefined
  /** Milliseconds. */
  readonly idempotencyWindow: number
  readonly tags: ((payload: Payload["Type"]) => Tags) | undefined
  readonly payloadLimit: number
  readonly makePayload: (input: Payload["~type.make.in"]) => Effect.Effect<Payload["Type"], Schema.SchemaError>
  readonly encodePayload: JsonCodec<Payload>["encode"]
  readonly decodePayload: (
    json: string,
    version: number
  ) => Effect.Effect<Payload["Type"], CodecError, Payload["DecodingServices"]>
  readonly success: JsonCodec<Success>
  readonly error: JsonCodec<Error>
}

/** A day, in milliseconds. */
const defaultWindow = 86_400_000

/** The most that every broker can store as a version. */
const mostVersion = 32_767

/** Definitions are constants of a program, so a bad one is a defect of it. */
const refuse = (name: string, message: string): never => {
  throw new Error(`Task.make(${JSON.stringify(name)}): ${message}`)
}

const checkName = (name: string, what: string, text: string) => {
  if (!isKey(text)) refuse(name, `the ${what} is ${JSON.stringify(text)}; write ${keyRule}`)
}

const whole = (name: string, what: string, value: number, most: number) =>
  Number.isInteger(value) && value >= 1 && value <= most
    ? value
    : refuse(name, `${what} is ${value}; write a whole number from 1 to ${most}`)

const span = (name: string, what: string, input: Duration.Input | undefined) =>
  input === undefined
    ? undefined
    : spanOf(input) ?? refuse(name, `${what} is ${describe(input)}; write ${spanRule}`)

const describe = (input: Duration.Input): string =>
  typeof input === "object" ? Duration.format(Duration.fromInputUnsafe(input)) : String(input)

const checkUpgrade = (name: string, version: number, upgrade: Upgrade) => {
  for (let from = 1; from < version; from++) {
    if (typeof upgrade[from] !== "function") {
      refuse(name, `upgrade has no step from version ${from}; write one for each version below ${version}`)
    }
  }
}

export const define = <
  Payload extends Schema.Top,
  Success extends Schema.Top,
  Error extends Schema.Top
>(
  name: string,
  payload: Payload,
  success: Success,
  error: Error,
  options: Options<AnyPayload, Success, Error>
): Definition<Payload, Success, Error> => {
  const queue = options.queue ?? defaultQueue
  checkName(name, "name", name)
  checkName(name, "queue", queue)
  const priority = options.priority ?? lowestPriority
  if (!isPriority(priority)) refuse(name, `priority is ${priority}; write ${priorityRule}`)
  const version = whole(name, "version", options.version ?? 1, mostVersion)
  const upgrade = options.upgrade ?? {}
  checkUpgrade(name, version, upgrade)
  return {
    name,
    queue,
    priority,
    version,
    timeout: span(name, "timeout", options.timeout),
    retention: span(name, "retention", options.retention),
    maxLosses: options.onWorkerLost === "fail" ? 1 : 3,
    retry: options.retry,
    concurrencyKey: options.concurrencyKey,
    idempotencyKey: options.idempotencyKey,
    idempotencyWindow: span(name, "idempotencyWindow", options.idempotencyWindow) ?? defaultWindow,
    tags: options.tags,
    payloadLimit: whole(name, "payloadLimit", options.payloadLimit ?? mostJson, mostJson),
    makePayload: (input) =>
      Effect.mapError(payload.makeEffect(input as never), (issue) => new Schema.SchemaError(issue)),
    encodePayload: jsonCodec(payload).encode,
    decodePayload: versionedDecode(payload, version, upgrade),
    success: jsonCodec(success),
    error: jsonCodec(error)
  }
}

/** The part of a definition that a worker makes known. */
export const known = (
  { idempotencyWindow, maxLosses, name, priority, queue, retention, timeout, version }: Known
): Known => ({
  name,
  version,
  queue,
  priority,
  timeout,
  maxLosses,
  retention,
  idempotencyWindow
})
