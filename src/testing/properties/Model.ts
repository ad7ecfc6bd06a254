/**
 * What must have become of every task, worker and queue: the state machine once more, as short as it can be written. It
 * knows nothing of how a broker finds what is ready, only what it may find.
 */
import type {
  AttemptRecord,
  ClaimedTask,
  EndedAttempt,
  Filter,
  Hold,
  Limits,
  NewTask,
  Outcome,
  Sent,
  When
} from "../../Broker.ts"
import type { Given, ModelQueue, ModelTask, ModelWorker } from "./ModelTask.ts"
import { type Rule, show, type Violation } from "./rules.ts"
import { Tokens } from "./Tokens.ts"

const cancelled: Outcome = { _tag: "Cancelled" }

const endStates = { Completed: "COMPLETED", Failed: "FAILED", Cancelled: "CANCELLED", Expired: "EXPIRED" } as const

const timeOf = (when: When, now: number) => "at" in when ? when.at : now + when.after

export class Model {
  now: number
  readonly violations: Array<Violation> = []
  readonly tasks = new Map<string, ModelTask>()
  readonly workers: Array<ModelWorker> = []
  readonly given: Array<Given> = []
  /** Everything that anybody has tried to send. */
  readonly sent: Array<NewTask> = []
  private readonly queues = new Map<string, ModelQueue>()
  private readonly keys = new Map<string, { readonly id: string; readonly until: number }>()
  private readonly aliases = new Map<string, string>()
  private readonly retention: number

  constructor(now: number, retention: number) {
    this.now = now
    this.retention = retention
  }

  expect(holds: boolean, rule: Rule, detail: () => string) {
    if (!holds) this.violations.push({ rule, detail: detail() })
  }

  /** The short name of a task, for reports. */
  alias(id: string): string {
    return this.aliases.get(id) ?? id
  }

  queue(name: string): ModelQueue {
    let queue = this.queues.get(name)
    if (queue === undefined) {
      queue = { settings: { paused: false, limits: {} }, tokens: new Tokens(undefined, this.now), keys: new Map() }
      this.queues.set(name, queue)
    }
    return queue
  }

  tokensOf(queue: ModelQueue, key: string): Tokens {
    let tokens = queue.keys.get(key)
    // A key that was never met has a full bucket; that it may be one that was forgotten makes no difference.
    if (tokens === undefined) queue.keys.set(key, tokens = new Tokens(queue.settings.limits.perKey?.rate, this.now))
    return tokens
  }

  get claimed(): ReadonlyArray<ModelTask> {
    return [...this.tasks.values()].filter(({ state }) => state === "CLAIMED")
  }

  isAlive(worker: string): boolean {
    return this.workers.some(({ id, state }) => id === worker && state === "alive")
  }

  /** Whether a task can have been removed because its time is over. */
  isOver({ endedAt, retention }: ModelTask): boolean {
    return endedAt !== undefined && endedAt + (retention ?? this.retention) <= this.now
  }

  isTooLate({ goodUntil }: ModelTask): boolean {
    return goodUntil !== undefined && goodUntil <= this.now
  }

  matching(filter: Filter): ReadonlyArray<ModelTask> {
    const { concurrencyKey, idempotencyKey, ids, name, queue, tags = {} } = filter
    const kept = idempotencyKey === undefined ? undefined : this.keys.get(show([name, idempotencyKey]))
    return [...this.tasks.values()].filter((task) =>
      (ids === undefined || ids.includes(task.id)) &&
      (name === undefined || task.name === name) &&
      (queue === undefined || task.queue === queue) &&
      (concurrencyKey === undefined || task.concurrencyKey === concurrencyKey) &&
      (idempotencyKey === undefined || (kept !== undefined && kept.until > this.now && kept.id === task.id)) &&
      Object.entries(tags).every(([key, value]) => task.tags[key] === value)
    )
  }

  /** What a send has to be answered with; stores what it stores. */
  send(tasks: ReadonlyArray<NewTask>): ReadonlyArray<Sent> | "refused" | { readonly taken: string } {
    const answers: Array<Sent> = []
    const fresh = new Map<string, NewTask>()
    const keys = new Map<string, string>()
    for (const task of tasks) {
      if (!this.aliases.has(task.id)) this.aliases.set(task.id, `t${this.aliases.size + 1}`)
      const known = this.tasks.get(task.id) ?? fresh.get(task.id)
      if (known !== undefined) {
        if (task.repeated !== true) return "refused"
        if (known.name !== task.name || known.payload !== task.payload) return { taken: task.id }
        answers.push({ id: task.id, duplicate: true })
        continue
      }
      if (task.idempotency !== undefined) {
        const key = show([task.name, task.idempotency.key])
        const kept = this.keys.get(key)
        const first = kept !== undefined && kept.until > this.now ? kept.id : keys.get(key)
        if (first !== undefined) {
          answers.push({ id: first, duplicate: true })
          continue
        }
        keys.set(key, task.id)
      }
      fresh.set(task.id, task)
      answers.push({ id: task.id, duplicate: false })
    }
    for (const task of fresh.values()) {
      this.store(task)
      const { idempotency, name } = task
      if (idempotency !== undefined) {
        this.keys.set(show([name, idempotency.key]), { id: task.id, until: this.now + idempotency.window })
      }
    }
    return answers
  }

  resend(origin: ModelTask, id: string) {
    origin.successor = id
    this.aliases.set(id, `t${this.aliases.size + 1}`)
    const { concurrencyKey, maxLosses, name, payload, priority, queue, retention, tags, timeout, version } = origin
    this.store({
      id,
      name,
      queue,
      payload,
      version,
      priority,
      timeout,
      maxLosses,
      concurrencyKey,
      tags,
      retention,
      due: { after: 0 }
    }, origin.id)
  }

  private store(task: NewTask, origin?: string) {
    const { goodUntil, id } = task
    const dueAt = timeOf(task.due, this.now)
    this.tasks.set(id, {
      id,
      alias: this.alias(id),
      name: task.name,
      queue: task.queue,
      payload: task.payload,
      version: task.version,
      priority: task.priority,
      timeout: task.timeout,
      dueAt,
      origin,
      state: "PENDING",
      sentAt: this.now,
      endedAt: undefined,
      fence: 0,
      attempts: 0,
      losses: 0,
      maxLosses: task.maxLosses,
      retention: task.retention,
      goodUntil: goodUntil && timeOf(goodUntil, this.now),
      concurrencyKey: task.concurrencyKey,
      tags: task.tags ?? {},
      cancelling: false,
      successor: undefined,
      worker: undefined,
      outcome: undefined,
      history: [],
      ready: dueAt <= this.now
    })
  }

  claim(task: ModelTask, worker: string, { fence }: ClaimedTask) {
    task.state = "CLAIMED"
    task.worker = worker
    task.fence = fence
    this.given.push({ id: task.id, fence, worker })
    const queue = this.queue(task.queue)
    queue.tokens.take(this.now)
    if (task.concurrencyKey !== undefined) this.tokensOf(queue, task.concurrencyKey).take(this.now)
  }

  standing(worker: string, { fence, id }: Hold): ModelTask | undefined {
    const task = this.tasks.get(id)
    return task?.state === "CLAIMED" && task.worker === worker && task.fence === fence ? task : undefined
  }

  /** Whether the hold stood. */
  finish(worker: string, attempt: EndedAttempt): boolean {
    const task = this.standing(worker, attempt)
    if (task === undefined) return false
    const { elapsed, end } = attempt
    if (end._tag === "Lost") {
      this.lose(task)
      return true
    }
    if (elapsed !== undefined && end._tag !== "Snoozed" && end._tag !== "Expired") {
      task.history.push({
        attempt: task.attempts + 1,
        outcome: "failure" in end ? end.failure.kind : end._tag === "Interrupted" ? end.why : end._tag,
        worker,
        startedAt: this.now - elapsed,
        endedAt: this.now,
        ...("failure" in end ? { error: JSON.parse(end.failure.value) as AttemptRecord["error"] } : {})
      } as AttemptRecord)
      if (end._tag !== "Interrupted") task.attempts += 1
    }
    if (end._tag === "Retry" || end._tag === "Snoozed") {
      this.wait(task)
      task.dueAt = this.now + end.delay
      task.ready = end.delay <= 0
    } else if (end._tag === "Interrupted") this.wait(task)
    else this.end(task, end)
    return true
  }

  /** Takes a task away from its worker. */
  wait(task: ModelTask) {
    if (task.cancelling) return this.end(task, cancelled)
    task.state = "PENDING"
    task.worker = undefined
  }

  end(task: ModelTask, outcome: Outcome) {
    task.state = endStates[outcome._tag]
    task.outcome = outcome
    task.endedAt = this.now
    task.cancelling = false
  }

  lose(task: ModelTask) {
    task.losses += 1
    const ends = task.losses >= task.maxLosses && !task.cancelling
    task.history.push({
      attempt: task.attempts + 1,
      outcome: "Lost",
      worker: task.worker!,
      startedAt: null,
      endedAt: this.now
    })
    // In what words is the broker's own affair.
    if (ends) this.end(task, { _tag: "Failed", failure: { kind: "Lost", value: "" } })
    else this.wait(task)
    return ends ? "failed" : task.state === "PENDING" ? "released" : "cancelled"
  }

  limit(name: string, limits: Limits) {
    const queue = this.queue(name)
    queue.settings = { ...queue.settings, limits }
    queue.tokens = queue.tokens.changed(limits.rate, this.now)
    for (const [key, tokens] of queue.keys) queue.keys.set(key, tokens.changed(limits.perKey?.rate, this.now))
  }
}
