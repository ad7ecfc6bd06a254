/** Which tasks a filter means. */
import type { Filter } from "../Broker.ts"
import type { Entry } from "./Entry.ts"

/** Whether a task fits what a filter says beside ids and idempotency keys: by these the store looks tasks up. */
export const fits = ({ concurrencyKey, name, queue, tags }: Filter): (entry: Entry) => boolean => {
  const wanted = Object.entries(tags ?? {})
  return (entry) =>
    (name === undefined || entry.name === name) &&
    (queue === undefined || entry.queue === queue) &&
    (concurrencyKey === undefined || entry.concurrencyKey === concurrencyKey) &&
    wanted.every(([key, value]) => Object.hasOwn(entry.tags, key) && entry.tags[key] === value)
}
