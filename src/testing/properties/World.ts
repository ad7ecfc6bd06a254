/** One sequence under way: the broker, the model, and the real names behind the numbers of the steps. */
import type * as Fiber from "effect/Fiber"
import type {
  Broker,
  BrokerError,
  Definition,
  EndedAttempt,
  Filter,
  NewTask,
  Outcome,
  TaskNotFound,
  Want,
  When
} from "../../Broker.ts"
import type { Harness } from "../contract/Harness.ts"
import { Model } from "./Model.ts"
import type { Given, ModelTask, ModelWorker } from "./ModelTask.ts"
import type { Delay, Draft, FilterDraft, Pick, WantDraft } from "./Step.ts"

export interface Waiter {
  readonly id: string
  readonly fiber: Fiber.Fiber<Outcome, BrokerError | TaskNotFound>
}

const nth = <A>(items: ReadonlyArray<A>, n: number): A | undefined =>
  items.length === 0 ? undefined : items[n % items.length]

export class World {
  readonly broker: Broker["Service"]
  readonly harness: Harness["Service"]
  readonly model: Model
  readonly waiters: Array<Waiter> = []
  /** What was done, for a report. */
  readonly trace: Array<string> = []
  private readonly unique: string

  constructor(
    broker: Broker["Service"],
    harness: Harness["Service"],
    now: number,
    retention: number,
    unique: string
  ) {
    this.broker = broker
    this.harness = harness
    this.model = new Model(now, retention)
    this.unique = unique
  }

  /** Without what makes names unique. */
  readable(text: string): string {
    return this.model.workers.reduce(
      (text, { alias, id }) => text.replaceAll(id, alias),
      text.replaceAll(` of ${this.unique}`, "")
    )
  }

  name(n: number): string {
    return `name ${n} of ${this.unique}`
  }

  queue(n: number): string {
    return `queue ${n} of ${this.unique}`
  }

  get queues(): ReadonlyArray<string> {
    return [this.queue(0), this.queue(1)]
  }

  private key(n: number): string {
    return `key ${n} of ${this.unique}`
  }

  /** On every task of the sequence. */
  get tags(): Readonly<Record<string, string>> {
    return { run: `run of ${this.unique}` }
  }

  private tag(n: number): Readonly<Record<string, string>> {
    return { [`tag of ${this.unique}`]: String(n) }
  }

  /** A time-ordered id, as senders make them: the broker's time, chance, and what makes it unique. */
  private id(salt: number, place: number): string {
    const hex = (n: number, length: number) => Math.floor(n).toString(16).padStart(length, "0").slice(-length)
    const time = hex(this.model.now, 12)
    const count = hex(this.model.sent.length * 4 + place, 4)
    return `${time.slice(0, 8)}-${time.slice(8)}-7${hex(salt, 3)}-8${count.slice(1)}-${this.unique.slice(-12)}`
  }

  when({ asPoint, millis }: Delay): When {
    return asPoint ? { at: this.model.now + millis } : { after: millis }
  }

  task(draft: Draft, place: number): NewTask {
    const { idempotency, repeats } = draft
    const before = repeats === undefined ? undefined : nth(this.model.sent, repeats.task)
    if (repeats !== undefined && before !== undefined) {
      // A first send need not look among the ended tasks.
      const live = this.model.tasks.get(before.id)?.endedAt === undefined && this.model.tasks.has(before.id)
      return {
        ...before,
        repeated: repeats.kind !== "unsaid" || !live,
        priority: draft.priority,
        payload: repeats.kind === "other payload" ? `{"other":true}` : before.payload,
        name: repeats.kind === "other name" ? this.name(2) : before.name
      }
    }
    return {
      id: this.id(draft.salt, place),
      name: this.name(draft.name),
      queue: this.queue(draft.queue),
      payload: `{"n":${this.model.sent.length + place}}`,
      version: draft.version,
      priority: draft.priority,
      due: this.when(draft.due),
      goodUntil: draft.goodUntil && this.when(draft.goodUntil),
      timeout: draft.timeout,
      maxLosses: draft.maxLosses,
      concurrencyKey: draft.key === undefined ? undefined : this.key(draft.key),
      tags: draft.tag === undefined ? this.tags : { ...this.tags, ...this.tag(draft.tag) },
      retention: draft.retention,
      idempotency: idempotency && { key: this.key(idempotency.key), window: idempotency.window }
    }
  }

  wants(drafts: ReadonlyArray<WantDraft>): ReadonlyArray<Want> {
    return drafts.map(({ ahead, names, queue, slots, version }) => ({
      queue: this.queue(queue),
      handles: names.map((name) => ({ name: this.name(name), version })),
      slots,
      ahead
    }))
  }

  definitions(names: ReadonlyArray<number>, version: number): ReadonlyArray<Definition> {
    return names.map((name) => ({
      name: this.name(name),
      version,
      queue: this.queue(0),
      priority: 100,
      timeout: undefined,
      maxLosses: 3,
      retention: undefined,
      idempotencyWindow: 86_400_000
    }))
  }

  filter({ idempotencyKey, ids, key, name, queue, tag }: FilterDraft): Filter {
    const known = [...this.model.tasks.keys()]
    return {
      ids: ids?.flatMap((n) => nth(known, n) ?? []),
      name: name === undefined ? undefined : this.name(name),
      queue: queue === undefined ? undefined : this.queue(queue),
      concurrencyKey: key === undefined ? undefined : this.key(key),
      tags: tag === undefined ? undefined : this.tag(tag),
      idempotencyKey: idempotencyKey === undefined ? undefined : this.key(idempotencyKey)
    }
  }

  someTask(n: number): ModelTask | undefined {
    return nth([...this.model.tasks.values()], n)
  }

  /** Any worker that was ever started, the living ones more often than the dead. */
  someWorker(n: number): ModelWorker | undefined {
    const alive = this.model.workers.filter(({ crashed, state }) => state === "alive" && !crashed)
    return nth(n % 5 === 0 || alive.length === 0 ? this.model.workers : alive, Math.floor(n / 5))
  }

  /** A worker that holds something, if there is one. */
  someHolder(n: number): ModelWorker | undefined {
    const holders = new Set(this.model.claimed.map(({ worker }) => worker))
    return nth(this.model.workers.filter(({ id }) => holders.has(id)), n) ?? this.someWorker(n)
  }

  /** The attempts that a worker reports, each of another task. */
  attempts(worker: string, picks: ReadonlyArray<Pick>): ReadonlyArray<EndedAttempt> {
    const { given } = this.model
    const stands = (hold: Given) => this.model.standing(hold.worker, hold) !== undefined
    const groups = {
      standing: given.filter((hold) => hold.worker === worker && stands(hold)),
      stale: given.filter((hold) => !stands(hold)),
      foreign: given.filter((hold) => hold.worker !== worker && stands(hold))
    }
    const attempts = new Map<string, EndedAttempt>()
    for (const { elapsed, end, hold, whose } of picks) {
      const chosen = nth(groups[whose], hold)
      if (chosen === undefined || attempts.has(chosen.id)) continue
      attempts.set(chosen.id, { id: chosen.id, fence: chosen.fence, elapsed, end })
    }
    return [...attempts.values()]
  }
}
