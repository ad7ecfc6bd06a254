/** Which task was sent under which key, for as long as that is remembered. Each name has keys of its own. */
interface Kept {
  readonly id: string
  readonly until: number
}

const text = (name: string, key: string) => JSON.stringify([name, key])

export class IdempotencyKeys {
  private readonly kept = new Map<string, Kept>()

  get(name: string, key: string, now: number): string | undefined {
    const kept = this.kept.get(text(name, key))
    return kept === undefined || kept.until <= now ? undefined : kept.id
  }

  keep(name: string, key: string, id: string, until: number) {
    this.kept.set(text(name, key), { id, until })
  }

  sweep(now: number) {
    for (const [key, { until }] of this.kept) if (until <= now) this.kept.delete(key)
  }
}
