/** Which child process a task runs in. */
import type { Child } from "./Child.ts"

/** A child that has not answered for so many seconds is not given more, while others have room. */
const busy = 3

/** Smaller is better, the first difference counts. */
const rank = (child: Child, queue: string, lostBefore: boolean): ReadonlyArray<number> => {
  // One that does not answer, or that may have to be killed, takes what it is given down with it.
  const risky = child.silent >= busy || child.interrupting > 0 ? 1 : 0
  const here = child.runningOf(queue)
  // A task whose process died before may have been the reason: it is to have as little company as can be.
  return lostBefore ? [risky, child.running, here] : [risky, child.lostBefore, here, child.running]
}

const isBefore = (a: ReadonlyArray<number>, b: ReadonlyArray<number>): boolean => {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return a[i]! < b[i]!
  return false
}

/**
 * The child with room for another task of this queue that runs the fewest of it, and the fewest of all. `capacity` is the
 * queue's concurrency in one process.
 */
export const choose = (
  children: Iterable<Child>,
  queue: string,
  capacity: number,
  lostBefore: boolean
): Child | undefined => {
  let best: Child | undefined
  let bestRank: ReadonlyArray<number> = []
  for (const child of children) {
    if (child.stage !== "active" || child.runningOf(queue) >= capacity) continue
    const itsRank = rank(child, queue, lostBefore)
    if (best !== undefined && !isBefore(itsRank, bestRank)) continue
    best = child
    bestRank = itsRank
  }
  return best
}
