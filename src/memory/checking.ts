/** What a broker refuses, although the types allow it. Each check gives the reason, or nothing. */
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import {
  BrokerError,
  type EndedAttempt,
  type Filter,
  highestPriority,
  type Limits,
  lowestPriority,
  type NewTask,
  Refused
} from "../Broker.ts"

export const refused = (message: string): Result.Result<never, BrokerError> =>
  Result.fail(new BrokerError({ reason: new Refused({ message }) }))

export const refusedTask = (task: NewTask): string | undefined => {
  const { concurrencyKey, id, idempotency, payload, priority, tags, version } = task
  if (!Number.isInteger(priority) || priority < highestPriority || priority > lowestPriority) {
    return `task ${id} has priority ${priority}, which is no whole number from ${highestPriority} to ${lowestPriority}`
  }
  if (!Number.isInteger(version) || version < 1) {
    return `task ${id} has version ${version}, which is no whole number from 1`
  }
  if (!isJson(payload)) return `the payload of task ${id} is no JSON text`
  if (concurrencyKey !== undefined && !isText(concurrencyKey)) return `the concurrency key of task ${id} is no text`
  if (idempotency !== undefined && !isText(idempotency.key)) return `the idempotency key of task ${id} is no text`
  const tag = tags && Object.entries(tags).find((tag) => !tag.every(isText))
  return tag === undefined ? undefined : `the tag ${JSON.stringify(tag[0])} of task ${id} is no text`
}

export const refusedAttempts = (attempts: ReadonlyArray<EndedAttempt>): string | undefined => {
  const bad = attempts.find(({ end }) =>
    "value" in end ? !isJson(end.value) : "failure" in end && !isJson(end.failure.value)
  )
  return bad === undefined ? undefined : `the result of task ${bad.id} is no JSON text`
}

export const refusedFilter = ({ idempotencyKey, name }: Filter): string | undefined =>
  idempotencyKey !== undefined && name === undefined
    ? "an idempotency key says which task is meant only together with a name"
    : undefined

export const refusedLimits = ({ concurrency, perKey, rate }: Limits): string | undefined => {
  for (const limit of [concurrency, perKey?.concurrency]) {
    if (limit !== undefined && !(Number.isInteger(limit) && limit >= 1)) {
      return `a concurrency of ${limit} is no whole number from 1`
    }
  }
  for (const limits of [rate, perKey?.rate]) {
    for (const [what, value = 1] of Object.entries(limits ?? {})) {
      if (!(value > 0 && Number.isFinite(value))) return `a rate with a ${what} of ${value} lets nothing start`
    }
  }
  return undefined
}

const parse = Option.liftThrowable(JSON.parse)

const isJson = (text: string): boolean => Option.isSome(parse(text))

/** What a database can keep as text: no NUL, no half of a surrogate pair. */
const isText = (text: string): boolean => !/\0|\p{Surrogate}/u.test(text)
