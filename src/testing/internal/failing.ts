/** Assertions that do not hold. */

/** What test runners know as a failed assertion, whichever of them runs the test. */
export class AssertionError extends Error {
  override readonly name = "AssertionError"
}

/**
 * Makes a failed assertion that points to who called `assertion`. Made when the assertion is written down, because that
 * is where its caller stands; what is wrong is known only when it runs.
 */
export const failureOf = (assertion: (...parameters: ReadonlyArray<never>) => unknown) => {
  const place: { stack?: string } = {}
  Error.captureStackTrace(place, assertion)
  const frames = place.stack?.split("\n").slice(1) ?? []
  return (message: string): AssertionError => {
    const error = new AssertionError(message)
    error.stack = [`${error.name}: ${message}`, ...frames].join("\n")
    return error
  }
}
