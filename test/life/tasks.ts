/** Definitions of the tests of this folder. */
import * as Schema from "effect/Schema"
import * as Task from "../../src/Task.ts"

/** Its handlers note in the table `runs` when they ran. */
export class Noted extends Task.make("Noted", {
  payload: { n: Schema.Int, millis: Schema.Int },
  queue: "noted"
}) {}

/** Its handlers go on until they are interrupted, and note that in the table `events`. */
export class Endless extends Task.make("Endless", { queue: "endless" }) {}

/** Whose task it is says its payload. */
export class Keyed extends Task.make("Keyed", {
  payload: { key: Schema.String },
  queue: "keyed",
  concurrencyKey: ({ key }) => key
}) {}

/** A task that is due at a time. */
export class Timed extends Task.make("Timed", { payload: { at: Schema.Number }, queue: "timed" }) {}
