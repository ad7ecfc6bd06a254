/** What would become of the tasks of a send. */
import * as Result from "effect/Result"
import { type BrokerError, IdTaken, type NewTask, type Sent } from "../Broker.ts"
import { refused, refusedTask } from "./checking.ts"
import type { IdempotencyKeys } from "./IdempotencyKeys.ts"

/** What has to be known of a task to compare another one with it. */
type Known = Pick<NewTask, "name" | "payload">

const isSame = (a: Known, b: Known) => a.name === b.name && a.payload === b.payload

/** What becomes of each task, or why none of them may be stored. */
export const plan = (
  tasks: ReadonlyArray<NewTask>,
  stored: (id: string) => Known | undefined,
  keys: IdempotencyKeys,
  now: number
): Result.Result<ReadonlyArray<Sent>, BrokerError | IdTaken> => {
  const inBatch = new Map<string, NewTask>()
  const keysInBatch = new Map<string, string>()
  const sent: Array<Sent> = []
  for (const task of tasks) {
    const { id, idempotency, name } = task
    const reason = refusedTask(task)
    if (reason !== undefined) return refused(reason)
    const before = stored(id) ?? inBatch.get(id)
    if (before !== undefined) {
      if (task.repeated !== true) return refused(`there is already a task ${id}`)
      if (!isSame(before, task)) return Result.fail(new IdTaken({ id }))
      sent.push({ id, duplicate: true })
      continue
    }
    if (idempotency !== undefined) {
      const key = JSON.stringify([name, idempotency.key])
      const first = keys.get(name, idempotency.key, now) ?? keysInBatch.get(key)
      if (first !== undefined) {
        sent.push({ id: first, duplicate: true })
        continue
      }
      keysInBatch.set(key, id)
    }
    inBatch.set(id, task)
    sent.push({ id, duplicate: false })
  }
  return Result.succeed(sent)
}
