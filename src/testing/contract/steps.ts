/** Short words for what the tests of the contract do. */
import { assert } from "@effect/vitest"
import * as SecureRandom from "effect/crypto/SecureRandom"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import {
  type AttemptEnd,
  Broker,
  type BrokerError,
  type ClaimedTask,
  type Definition,
  type EndedAttempt,
  type Failure,
  type FailureKind,
  type Filter,
  type Hold,
  type IdTaken,
  type NewTask,
  type QueueSettings,
  type TaskRecord,
  type WakeUp,
  type Want
} from "../../Broker.ts"
import { Harness } from "./Harness.ts"

export const uuid = () => SecureRandom.uuidV7Unsafe()

/** A queue that no other test uses. */
export const uniqueQueue = () => `queue ${uuid()}`

/** A name, a key or a tag that no other test uses. */
export const unique = (what: string) => `${what} ${uuid()}`

export const newTask = (options: Partial<NewTask> = {}): NewTask => ({
  id: uuid(),
  name: "work",
  queue: "default",
  payload: "null",
  version: 1,
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

export const handled = (queue: string, name: string, version = 1): Definition => ({
  name,
  version,
  queue,
  priority: 100,
  timeout: undefined,
  maxLosses: 3,
  retention: undefined,
  idempotencyWindow: 86_400_000
})

export const register = (id: string, ...handles: ReadonlyArray<Definition>) =>
  Broker.use((broker) => broker.register({ id, lease, host: "localhost", pid: 1, handles }))

/** Registers a worker; whatever it still holds at the end of the test is lost with it. */
export const startWorkerFor = (...handles: ReadonlyArray<Definition>) =>
  Effect.acquireRelease(
    Effect.suspend(() => {
      const id = uuid()
      return Effect.as(register(id, ...handles), id)
    }),
    (id) => Effect.orDie(Broker.use((broker) => broker.deregister(id)))
  )

/** Registers a worker of which nobody knows what it handles. */
export const startWorker = startWorkerFor()

/** Wants everything of these names, up to the first version. */
export const want = (
  queue: string,
  { names = ["work"], ...options }: Partial<Want> & { readonly names?: ReadonlyArray<string> } = {}
): Want => ({
  queue,
  handles: names.map((name) => ({ name, version: 1 })),
  slots: 1000,
  ahead: 0,
  ...options
})

export const claims = (worker: string, ...wants: ReadonlyArray<Want>) =>
  Broker.use((broker) => broker.claim(worker, wants))

export const claim = (worker: string, ...wants: ReadonlyArray<Want>) =>
  Effect.map(claims(worker, ...wants), ({ tasks }) => tasks)

/** Claims the one task that there is. */
export const claimOne = Effect.fnUntraced(
  function*(worker: string, queue: string, options?: Parameters<typeof want>[1]) {
    const claimed = yield* claim(worker, want(queue, options))
    if (claimed.length !== 1) return yield* Effect.die(new Error(`claimed ${claimed.length} tasks instead of one`))
    return claimed[0]!
  }
)

/** Sends a task and claims it. */
export const sendAndClaim = Effect.fnUntraced(function*(worker: string, options: Partial<NewTask> = {}) {
  const queue = options.queue ?? uniqueQueue()
  yield* send(newTask({ ...options, queue }))
  return yield* claimOne(worker, queue, { names: [options.name ?? "work"] })
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

export const ended = ({ fence, id }: Hold, end: AttemptEnd, elapsed: number | undefined = 0): EndedAttempt => ({
  id,
  fence,
  elapsed,
  end
})

/** An attempt that has ended before its handler was started. */
export const notStarted = ({ fence, id }: Hold, end: AttemptEnd): EndedAttempt => ({
  id,
  fence,
  elapsed: undefined,
  end
})

export const finish = (worker: string, ...attempts: ReadonlyArray<EndedAttempt>) =>
  Broker.use((broker) => broker.finish(worker, attempts, []))

export const release = (worker: string, ...holds: ReadonlyArray<Hold>) =>
  Broker.use((broker) => broker.release(worker, holds))

export const cancel = (filter: Filter) => Broker.use((broker) => broker.cancel(filter))

export const configure = (queue: string, settings: Partial<QueueSettings>) =>
  Broker.use((broker) => broker.configureQueue(queue, settings))

export const outcome = (id: string) => Broker.use((broker) => broker.outcome(id))

/** Looks up a task that must be there. */
export const find = (id: string): Effect.Effect<TaskRecord, never, Broker> =>
  Broker.use((broker) => broker.find(id)).pipe(
    Effect.map(Option.getOrThrowWith(() => new Error(`no task ${id}`))),
    Effect.orDie
  )

export const promote = (...queues: ReadonlyArray<string>) => Broker.use((broker) => broker.promote(queues))

/** What a broker may add, so that workers that wait for the same due time come one after another. */
export const jitter = 2

/** Promotes until there is nothing left to promote. Next to nothing says that there may be more. */
export const promoteAll = (queue: string) =>
  Effect.repeat(promote(queue), { until: (next) => next === undefined || next > jitter })

/** Time left, by a broker whose clock may move on while the test runs. */
export const assertWithin = (actual: number | undefined, most: number) => {
  assert.isAtMost(actual ?? Number.NaN, most + jitter)
  assert.isAbove(actual ?? Number.NaN, most - 20_000)
}

export const assertRefused = (error: BrokerError | IdTaken) => {
  if (error._tag !== "BrokerError") return assert.fail(error.message)
  assert.strictEqual(error.reason._tag, "Refused")
  assert.isFalse(error.isRetryable)
}

/** What was recovered. */
export const recover = Effect.map(
  Broker.use((broker) => broker.recover),
  ({ failed, released, workers }) => ({ workers, released, failed })
)

export const sweep = Broker.use((broker) => broker.sweep)

export const heartbeat = (worker: string) => Broker.use((broker) => broker.heartbeat(worker, []))

export const advance = (millis: number) => Harness.use((harness) => harness.advance(millis))

/** Lets the leases of all workers pass that send no heartbeat meanwhile. */
export const leasePasses = (...alive: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    yield* advance(lease - 10_000)
    yield* Effect.forEach(alive, heartbeat)
    yield* advance(10_001)
  })

export const now = Harness.use((harness) => harness.now)

export const ids = (tasks: ReadonlyArray<{ readonly id: string }>) => tasks.map(({ id }) => id)

export const payloads = (tasks: ReadonlyArray<ClaimedTask>) => tasks.map(({ payload }) => payload)

/** A history without the times at which its entries ended. */
export const timeless = ({ history }: TaskRecord) =>
  history.map(({ attempt, error, outcome, worker }) => ({ attempt, error, outcome, worker }))

export const subscribe = Effect.flatten(Broker.useSync((broker) => broker.wakeUps))

/** Takes wake-ups until there is one that fits. */
export const wakeUpThat = (
  wakeUps: Queue.Dequeue<WakeUp>,
  fits: (wakeUp: WakeUp) => boolean
): Effect.Effect<WakeUp> => Effect.repeat(Queue.take(wakeUps), { until: fits })

/** Whether a wake-up makes a worker of this queue look for ready tasks. */
export const isFor = (queue: string) => (wakeUp: WakeUp) =>
  wakeUp._tag === "LookAgain" || (wakeUp._tag === "Sent" && wakeUp.queue === queue && wakeUp.dueIn <= 0)
