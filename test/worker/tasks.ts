/** Definitions that the worker tests share. */
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Task from "../../src/Task.ts"

export class Held extends Task.make("Held", { payload: { n: Schema.Int }, success: Schema.Int, queue: "held" }) {}

export class Echo extends Task.make("Echo", { payload: { text: Schema.String }, success: Schema.String }) {}

export class Shaky extends Schema.TaggedError<Shaky>()("Shaky", { worthIt: Schema.Boolean, attempt: Schema.Int }) {}

export class Flaky extends Task.make("Flaky", {
  payload: { failures: Schema.Int, worthIt: Schema.Boolean },
  success: Schema.Int,
  error: Shaky,
  queue: "flaky",
  retry: { times: 3, schedule: Schedule.spaced("20 millis"), while: (error) => error.worthIt }
}) {}
