/** Figures that the tests of this folder measure: printed, so that a run says how far it was from its bounds. */

/** The value below which this share of the values lies. */
export const quantile = (values: ReadonlyArray<number>, share: number): number => {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN
}

/** Prints figures of a test, rounded to a tenth, and small ones to a hundredth. */
export const figures = (what: string, values: Readonly<Record<string, number>>): void => {
  const parts = Object.entries(values).map(([name, value]) =>
    `${name} ${value < 10 ? Math.round(value * 100) / 100 : Math.round(value * 10) / 10}`
  )
  process.stdout.write(`figures | ${what}: ${parts.join(", ")}\n`)
}
