/** What the operating system says when it refuses a file or a folder. */
import { Predicate, Schema } from "effect"
import { getSystemErrorMessage } from "node:util"

/** A system call on a file or a folder failed. */
export class SystemError extends Schema.TaggedError<SystemError>()("SystemError", {
  /** `EACCES` and such. */
  code: Schema.String,
  /** Without the path, which Node's own message has, but not byte by byte. */
  message: Schema.String
}) {
  static from(cause: unknown): SystemError {
    const code = Predicate.hasProperty(cause, "code") && typeof cause.code === "string" ? cause.code : "UNKNOWN"
    const message = Predicate.hasProperty(cause, "errno") && typeof cause.errno === "number"
      ? `${getSystemErrorMessage(cause.errno)} (${code})`
      : String(cause)
    return new SystemError({ code, message })
  }
}

const transient = new Set(["EAGAIN", "EBUSY", "EINTR", "EMFILE", "ENFILE", "ENOMEM", "ESTALE", "ETXTBSY"])

/** Whether it passes by itself: somebody else is using the file, or too many are open right now. */
export const isTransient = ({ code }: { readonly code: string }): boolean => transient.has(code)
