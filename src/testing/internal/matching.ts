/** Comparing what was expected, in part, with what is there. */
import * as Equal from "effect/Equal"
import * as Formatter from "effect/Formatter"
import * as Predicate from "effect/Predicate"

/** A value of which only some parts are given. */
export type Part<A> = A extends string | number | boolean | bigint | symbol | null | undefined ? A
  : A extends ReadonlyArray<infer Element> ? ReadonlyArray<Part<Element>>
  : A extends object ? { readonly [K in keyof A]?: Part<A[K]> }
  : A

/** A value on one line. */
export const show = (value: unknown): string => Formatter.format(value)

/** An object whose keys mean themselves: what is a value of a class, or a list, is compared as a whole. */
const hasParts = (value: unknown): value is Record<PropertyKey, unknown> => {
  if (!Predicate.isObject(value)) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}

/** The first difference between what is there and what was expected, or nothing when it fits. */
export const difference = (path: string, actual: unknown, expected: unknown): string | undefined => {
  if (hasParts(expected) && Predicate.isObject(actual)) {
    for (const key of Object.keys(expected)) {
      const found = difference(
        `${path}.${key}`,
        (actual as Readonly<Record<string, unknown>>)[key],
        expected[key]
      )
      if (found !== undefined) return found
    }
    return undefined
  }
  if (Array.isArray(expected) && Array.isArray(actual) && expected.length === actual.length) {
    for (let i = 0; i < expected.length; i++) {
      const found = difference(`${path}[${i}]`, actual[i], expected[i])
      if (found !== undefined) return found
    }
    return undefined
  }
  return Equal.equals(actual, expected) ? undefined : `${path} is ${show(actual)} instead of ${show(expected)}`
}
