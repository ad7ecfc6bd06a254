/** Definitions that the worker tests share. */
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Task from "../../src/Task.ts"

export class Held extends Task.make("Held", { payload: { n: Schema.Int }, success: Schema.Int, queue: "held" }) {}

/** In the same queue, for another worker. */
export class HeldElsewhere extends Task.make("HeldElsewhere", { payload: {}, queue: "held" }) {}

export class Echo extends Task.make("Echo", { payload: { text: Schema.String }, success: Schema.String }) {}

export class Shaky extends Schema.TaggedError<Shaky>()("Shaky", { worthIt: Schema.Boolean, attempt: Schema.Int }) {}

export class Flaky extends Task.make("Flaky", {
  payload: { failures: Schema.Int, worthIt: Schema.Boolean },
  success: Schema.Int,
  error: Shaky,
  queue: "flaky",
  retry: { times: 3, schedule: Schedule.spaced("20 millis"), while: (error) => error.worthIt }
}) {}

/** Would be tried again after an hour, and only when it is worth it. */
export class Patient extends Task.make("Patient", {
  error: Shaky,
  queue: "flaky",
  payload: {},
  retry: { times: 2, schedule: Schedule.spaced("1 hour"), while: (error) => error.worthIt }
}) {}

export class Slow extends Task.make("Slow", {
  payload: { until: Schema.Int },
  success: Schema.Int,
  queue: "slow",
  timeout: "30 millis",
  retry: { times: 2, schedule: Schedule.spaced("5 millis") }
}) {}

export class Charge extends Task.make("Charge", {
  payload: { order: Schema.String, tries: Schema.Int },
  success: Schema.Int,
  idempotencyKey: ({ order }) => order
}) {}

/** Its first version had one name, the second a first and a last one. */
export class Person extends Task.make("Person", {
  payload: { names: Schema.Array(Schema.String) },
  success: Schema.String,
  version: 3,
  upgrade: {
    1: (encoded) => {
      const [first, last] = (encoded as { readonly name: string }).name.split(" ")
      return { first: first ?? "", last: last ?? "" }
    },
    2: (encoded) => {
      const { first, last } = encoded as { readonly first: string; readonly last: string }
      return { names: [first, last] }
    }
  }
}) {}

export class Odd extends Schema.TaggedError<Odd>()("Odd", { n: Schema.Int }) {}

/** Handled in batches. */
export class Sum extends Task.make("Sum", {
  payload: { n: Schema.Int },
  success: Schema.Int,
  error: Odd,
  queue: "sums"
}) {}
