/** What the contract suite needs beside the broker, and short words for what its tests do. */
import type { Vitest } from "@effect/vitest"
import * as Context from "effect/Context"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import {
  type AttemptEnd,
  Broker,
  type ClaimedTask,
  type EndedAttempt,
  type Failure,
  type FailureKind,
  type Hold,
  type NewTask,
  type TaskRecord,
  type WakeUp,
  type Want
} from "../../src/Broker.ts"

/** How a test moves the clock of the broker under test. */
export class Harness extends Context.Service<Harness, {
  /** Moves the broker's clock forward. */
  readonly advance: (millis: number) => Effect.Effect<void>
  /** What the broker's clock says: milliseconds since the epoch. */
  readonly now: Effect.Effect<number>
}>()("effect-horsies/test/contract/Harness") {}

/** The tests of one part of the contract are a function of this. */
export type It = Vitest.MethodsNonLive<Broker | Harness>

let serial = 0

/** A queue that no other test uses. */
export const uniqueQueue = () => `queue ${++serial}`

export const uuid = () => SecureRandom.uuidV7Unsafe()

export const newTask = (options: Partial<NewTask> = {}): NewTask => ({
  id: uuid(),
  name: "work",
  queue: "default",
  payload: "null",
  priority: 100,
  due: { after: 0 },
  maxLosses: 3,
  ...options
})

export const newTasks = (count: number, options: Partial<NewTask> = {}): ReadonlyArray<NewTask> =>
  Array.from({ length: count }, () => newTask(options))

export const send = (...tasks: ReadonlyArray<NewTask>) => Broker.use((broker) => broker.send(tasks))

/** A lease that passes only when a test moves the clock. */
export const lease = 30_000

/** Registers a worker; whatever it still holds at the end of the test is lost with it. */
export const startWorker = Effect.acquireRelease(
  Effect.gen(function*() {
    const id = uuid()
    yield* Broker.use((broker) => broker.register({ id, lease, host: "localhost", pid: 1, queues: ["default"] }))
    return id
  }),
  (id) => Effect.orDie(Broker.use((broker) => broker.deregister(id)))
)

export const want = (queue: string, options: Partial<Want> = {}): Want => ({
  queue,
  names: ["work"],
  slots: 1000,
  ahead: 0,
  ...options
})

export const claim = (worker: string, ...wants: ReadonlyArray<Want>) =>
  Broker.use((broker) => broker.claim(worker, wants))

/** Claims the one task that there is. */
export const claimOne = Effect.fnUntraced(function*(worker: string, queue: string) {
  const claimed = yield* claim(worker, want(queue))
  if (claimed.length !== 1) return yield* Effect.die(new Error(`claimed ${claimed.length} tasks instead of one`))
  return claimed[0]!
})

/** Sends a task and claims it. */
export const sendAndClaim = Effect.fnUntraced(function*(worker: string, options: Partial<NewTask> = {}) {
  const queue = options.queue ?? uniqueQueue()
  yield* send(newTask({ ...options, queue }))
  return yield* claimOne(worker, queue)
})

export const completed = (value = "null"): AttemptEnd => ({ _tag: "Completed", value })

export const failure = (kind: FailureKind = "Error", value = "\"oh\""): Failure => ({ kind, value })

export const failed = (kind?: FailureKind, value?: string): AttemptEnd => ({
  _tag: "Failed",
  failure: failure(kind, value)
})

export const retry = (delay: number, kind?: FailureKind, value?: string): AttemptEnd => ({
  _tag: "Retry",
  failure: failure(kind, value),
  delay
})

export const ended = ({ fence, id }: Hold, end: AttemptEnd, elapsed = 0): EndedAttempt => ({ id, fence, elapsed, end })

export const finish = (worker: string, ...attempts: ReadonlyArray<EndedAttempt>) =>
  Broker.use((broker) => broker.finish(worker, attempts, []))

export const outcome = (id: string) => Broker.use((broker) => broker.outcome(id))

/** Looks up a task that must be there. */
export const find = (id: string): Effect.Effect<TaskRecord, never, Broker> =>
  Broker.use((broker) => broker.find(id)).pipe(
    Effect.map(Option.getOrThrowWith(() => new Error(`no task ${id}`))),
    Effect.orDie
  )

export const promote = (...queues: ReadonlyArray<string>) => Broker.use((broker) => broker.promote(queues))

export const recover = Broker.use((broker) => broker.recover)

export const advance = (millis: number) => Harness.use((harness) => harness.advance(millis))

export const now = Harness.use((harness) => harness.now)

export const ids = (tasks: ReadonlyArray<{ readonly id: string }>) => tasks.map(({ id }) => id)

export const payloads = (tasks: ReadonlyArray<ClaimedTask>) => tasks.map(({ payload }) => payload)

/** A history without the times at which its entries ended. */
export const timeless = ({ history }: TaskRecord) =>
  history.map(({ attempt, error, outcome, worker }) => ({ attempt, error, outcome, worker }))

/** Takes wake-ups until there is one that fits. */
export const wakeUpThat = (
  wakeUps: Queue.Dequeue<WakeUp>,
  fits: (wakeUp: WakeUp) => boolean
): Effect.Effect<WakeUp> => Effect.repeat(Queue.take(wakeUps), { until: fits })

/** Whether a wake-up makes a worker of this queue look for ready tasks. */
export const isFor = (queue: string) => (wakeUp: WakeUp) =>
  wakeUp._tag === "LookAgain" || (wakeUp.queue === queue && wakeUp.dueIn <= 0)
