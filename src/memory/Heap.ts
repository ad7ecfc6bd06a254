/** A binary heap: adding and taking the first cost the logarithm of the size, looking at the first costs nothing. */
export class Heap<A> {
  private readonly items: Array<A> = []
  private readonly before: (a: A, b: A) => boolean

  constructor(before: (a: A, b: A) => boolean) {
    this.before = before
  }

  get size(): number {
    return this.items.length
  }

  peek(): A | undefined {
    return this.items[0]
  }

  /** The first that fits. What lies before it and does not is dropped. */
  peekWhere(fits: (item: A) => boolean): A | undefined {
    while (this.items.length > 0 && !fits(this.items[0]!)) this.pop()
    return this.items[0]
  }

  /** Everything, in no order. */
  all(): Iterable<A> {
    return this.items
  }

  push(item: A) {
    const { before, items } = this
    let hole = items.length
    while (hole > 0) {
      const parent = (hole - 1) >> 1
      if (!before(item, items[parent]!)) break
      items[hole] = items[parent]!
      hole = parent
    }
    items[hole] = item
  }

  pop(): A | undefined {
    const { before, items } = this
    const first = items[0]
    const last = items.pop()
    if (last === undefined || items.length === 0) return first
    let hole = 0
    for (;;) {
      let child = 2 * hole + 1
      if (child >= items.length) break
      if (child + 1 < items.length && before(items[child + 1]!, items[child]!)) child += 1
      if (!before(items[child]!, last)) break
      items[hole] = items[child]!
      hole = child
    }
    items[hole] = last
    return first
  }
}
