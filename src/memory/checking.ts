/** What a broker refuses, although the types allow it. Each check gives the reason, or nothing. */
import * as Option from "effect/Option"
import { type EndedAttempt, highestPriority, lowestPriority, type NewTask } from "../Broker.ts"
import type { Store } from "./Store.ts"

export const refusedTasks = (store: Store, tasks: ReadonlyArray<NewTask>): string | undefined => {
  const ids = new Set<string>()
  for (const { id, payload, priority } of tasks) {
    if (ids.has(id) || store.get(id) !== undefined) return `there is already a task ${id}`
    if (!Number.isInteger(priority) || priority < highestPriority || priority > lowestPriority) {
      return `task ${id} has priority ${priority}, which is no whole number from ${highestPriority} to ${lowestPriority}`
    }
    if (!isJson(payload)) return `the payload of task ${id} is no JSON text`
    ids.add(id)
  }
  return undefined
}

export const refusedAttempts = (attempts: ReadonlyArray<EndedAttempt>): string | undefined => {
  const bad = attempts.find(({ end }) => !isJson(end._tag === "Completed" ? end.value : end.failure.value))
  return bad === undefined ? undefined : `the result of task ${bad.id} is no JSON text`
}

const parse = Option.liftThrowable(JSON.parse)

const isJson = (text: string): boolean => Option.isSome(parse(text))
