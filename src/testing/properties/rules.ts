/** The rules that a broker can break, in the words of a report. */

export const rules = {
  kept: "a task that was sent is never lost, and no other appears",
  fences: "every claim raises the fence, and only the whole hold counts",
  outcomes: "a task ends at most once, as the holder of its latest fence says",
  time: "due times, leases, expiry and retention go by the broker's clock",
  attempts: "every attempt leaves a record; released and interrupted claims count no attempt",
  losses: "losses are counted apart from attempts, and end a task after so many",
  limits: "limits are never exceeded",
  paused: "a paused queue gives nothing",
  handled: "a worker gets no more than it wants, and only what it handles",
  order: "the most urgent task comes first, and no key is passed over",
  ready: "what is ready is claimed by whoever wants it",
  sends: "a repeated send stores nothing, and says so",
  cancellations: "a cancellation reaches exactly the tasks that fit",
  resends: "a failed task is sent again once",
  liveness: "a worker is alive until its lease has passed and somebody has noticed; then its tasks are taken from it",
  answers: "what the broker says of a task agrees with what has happened to it",
  works: "no operation fails"
} as const

export type Rule = keyof typeof rules

/** One rule that was seen to be broken, and how. */
export interface Violation {
  readonly rule: Rule
  readonly detail: string
}

/** As it can be read and compared. What is undefined is left out. */
export const show = (value: unknown): string =>
  JSON.stringify(
    value,
    (_, value: unknown) => value instanceof Map ? Object.fromEntries(value) : value instanceof Set ? [...value] : value
  ) ?? "undefined"
