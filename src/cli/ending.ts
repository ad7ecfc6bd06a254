/** How the command ends: with one line that says why, and an exit code. */
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Runtime from "effect/Runtime"
import * as Schema from "effect/Schema"

/** Ends the process with this code; what there is to say has been said. */
export class Exit extends Schema.TaggedError<Exit>()("Exit", { code: Schema.Int }) {
  override readonly [Runtime.errorExitCode] = this.code
  override readonly [Runtime.errorReported] = false
}

/** One line, whatever there is to say. */
const oneLine = (message: string) => message.replace(/\n\s+at [^]*$/, "").trim().replaceAll(/\s*\n\s*/g, " ")

const complain = (message: string) => Console.error(`horsies: ${oneLine(message)}`)

const endWith = (code: number) => (message: string): Effect.Effect<never, Exit> =>
  Effect.andThen(complain(message), Effect.fail(new Exit({ code })))

/** Something was asked wrongly: an option, a module, a database that does not fit. */
export const refuse = endWith(2)

/** Something else is wrong. */
export const fail = endWith(1)
