/** Whether a claim brought what it may bring, and all that it must. */
import type { ClaimedTask, Claims, Want } from "../../Broker.ts"
import type { Model } from "./Model.ts"
import { isMoreUrgent, type ModelTask } from "./ModelTask.ts"
import { show } from "./rules.ts"

export interface ClaimOptions {
  /** Nobody else claims at the same time: the order holds, and what is ready is found. */
  readonly alone: boolean
  /** Something has ended in the same step. From queues with limits there may be more a moment later. */
  readonly fused?: boolean | undefined
}

/** What is lost when times become numbers and numbers become times. */
export const precision = 0.01

export const isNear = (a: number | null | undefined, b: number | null | undefined): boolean =>
  a === b || (typeof a === "number" && typeof b === "number" && Math.abs(a - b) <= precision)

const isLimited = (model: Model, queue: string) => {
  const { concurrency, perKey, rate } = model.queue(queue).settings.limits
  return [concurrency, rate, perKey?.concurrency, perKey?.rate].some((limit) => limit !== undefined)
}

const laneOf = (task: ModelTask) => show([task.name, task.version, task.concurrencyKey])

const handles = ({ handles }: Want, { name, version }: ModelTask) =>
  handles.some((handled) => handled.name === name && handled.version >= version)

/** The tasks that a want has to be given, as far as its slots and the limits allow. */
const ready = (model: Model, want: Want): ReadonlyArray<ModelTask> =>
  model.queue(want.queue).settings.paused ?
    [] :
    [...model.tasks.values()].filter((task) =>
      task.state === "PENDING" && task.queue === want.queue && task.ready && task.dueAt <= model.now &&
      handles(want, task) && !model.isTooLate(task)
    )

const isKeyed = (tasks: ReadonlyArray<ModelTask>) => tasks.some(({ concurrencyKey }) => concurrencyKey !== undefined)

const count = <A>(items: Iterable<A>, which: (item: A) => boolean) => [...items].filter(which).length

/** How many tasks a claim has to find at least. */
const least = (model: Model, want: Want, tasks: ReadonlyArray<ModelTask>): number => {
  const { ahead, queue: name, slots } = want
  if (!isLimited(model, name)) {
    const fresh = count(tasks, ({ losses }) => losses === 0)
    // A lost task has to be given a slot, and what takes the slots before it is more urgent. Without a free slot nothing
    // is urgent.
    return slots === 0 ? 0 : Math.max(Math.min(slots, tasks.length), Math.min(slots + ahead, fresh))
  }
  const queue = model.queue(name)
  const { concurrency = Number.POSITIVE_INFINITY, perKey } = queue.settings.limits
  const claimed = model.claimed.filter((task) => task.queue === name)
  let sum = 0
  for (const key of new Set(tasks.map(({ concurrencyKey }) => concurrencyKey))) {
    const waiting = count(tasks, ({ concurrencyKey }) => concurrencyKey === key)
    sum += key === undefined ? waiting : Math.min(
      waiting,
      Math.max(
        0,
        (perKey?.concurrency ?? Number.POSITIVE_INFINITY) - count(claimed, (task) => task.concurrencyKey === key)
      ),
      perKey?.rate === undefined ? waiting : model.tokensOf(queue, key).surely(model.now)
    )
  }
  return Math.min(slots, Math.max(0, concurrency - claimed.length), queue.tokens.surely(model.now), sum)
}

/** What a claimed task says of itself, and whether it may be given to this worker. */
const admit = (model: Model, worker: string, want: Want | undefined, task: ModelTask, given: ClaimedTask) => {
  const { alias, concurrencyKey, goodUntil, name, payload, priority, queue, timeout, version } = task
  const says = () => `${alias}: ${show(given)}`
  model.expect(task.state === "PENDING", "fences", () => `${alias} is claimed though it is ${task.state}`)
  model.expect(given.fence === task.fence + 1, "fences", () => `${alias} had the fence ${task.fence}; ${says()}`)
  model.expect(want !== undefined && handles(want, task), "handled", says)
  model.expect(!model.queue(queue).settings.paused, "paused", says)
  model.expect(task.dueAt <= model.now, "time", () => `${alias} is due ${task.dueAt - model.now} ms later`)
  model.expect(
    goodUntil === undefined || goodUntil >= model.now,
    "time",
    () => `${alias} was good until ${model.now - goodUntil!} ms ago`
  )
  model.expect(given.attempt === task.attempts + 1, "attempts", says)
  model.expect(given.losses === task.losses, "losses", says)
  model.expect(isNear(given.waited, model.now - task.dueAt), "time", says)
  model.expect(isNear(given.expiresIn, goodUntil && goodUntil - model.now), "time", says)
  model.expect(
    given.name === name && given.payload === payload && given.priority === priority && given.version === version &&
      given.timeout === timeout && given.concurrencyKey === concurrencyKey && given.queue === queue,
    "answers",
    says
  )
  model.claim(task, worker, given)
}

/** Whether the most urgent ones were taken, of those among which there is an order. */
const inOrder = (
  model: Model,
  taken: ReadonlyArray<ModelTask>,
  left: ReadonlyArray<ModelTask>,
  isOneLane: boolean
) => {
  const comparable = (a: ModelTask, b: ModelTask) =>
    (a.losses > 0) === (b.losses > 0) && (isOneLane || laneOf(a) === laneOf(b))
  for (const [i, task] of taken.entries()) {
    const earlier = [...taken.slice(i + 1), ...left].find((other) =>
      comparable(task, other) && isMoreUrgent(other, task)
    )
    model.expect(earlier === undefined, "order", () => `${task.alias} was claimed before ${earlier!.alias}`)
  }
}

/** No key gets one more task than it has lanes before every other key that is ready has got one. */
const inTurn = (model: Model, taken: ReadonlyArray<ModelTask>, ready: ReadonlyArray<ModelTask>) => {
  const fresh = taken.filter(({ losses }) => losses === 0)
  const keysOf = (tasks: ReadonlyArray<ModelTask>) => new Set(tasks.map(({ concurrencyKey }) => concurrencyKey))
  const passedOver = [...keysOf(ready.filter(({ losses }) => losses === 0))].filter((key) => !keysOf(taken).has(key))
  if (passedOver.length === 0) return
  for (const key of keysOf(fresh)) {
    const of = fresh.filter(({ concurrencyKey }) => concurrencyKey === key)
    model.expect(
      of.length <= new Set(of.map(laneOf)).size,
      "order",
      () => `${of.length} tasks of the key ${key} were claimed, and none of ${show(passedOver)}`
    )
  }
}

const withinLimits = (model: Model, name: string, taken: ReadonlyArray<ModelTask>) => {
  const queue = model.queue(name)
  const { concurrency, perKey } = queue.settings.limits
  const claimed = model.claimed.filter((task) => task.queue === name)
  const within = (limit: number | undefined, tasks: ReadonlyArray<ModelTask>, what: string) =>
    model.expect(
      limit === undefined || tasks.length <= limit,
      "limits",
      () => `${tasks.length} tasks of ${what} are claimed (${tasks.map(({ alias }) => alias)}), ${limit} may be`
    )
  within(concurrency, claimed, name)
  model.expect(!queue.tokens.isExceeded, "limits", () => `the rate of ${name} is exceeded`)
  for (const key of new Set(taken.map(({ concurrencyKey }) => concurrencyKey))) {
    if (key === undefined) continue
    within(perKey?.concurrency, claimed.filter(({ concurrencyKey }) => concurrencyKey === key), key)
    model.expect(!model.tokensOf(queue, key).isExceeded, "limits", () => `the rate of ${key} is exceeded`)
  }
}

/** Looks at what a claim brought, and brings the model up to date. */
export const claimed = (
  model: Model,
  worker: string,
  wants: ReadonlyArray<Want>,
  claims: Claims,
  { alone, fused }: ClaimOptions
) => {
  const alive = model.isAlive(worker)
  const before = wants.map((want) => {
    const tasks = alive ? ready(model, want) : []
    return { want, tasks, least: least(model, want, tasks), limited: isLimited(model, want.queue) }
  })
  model.expect(alive || claims.tasks.length === 0, "liveness", () => `a worker that is not alive got ${show(claims)}`)
  for (const given of claims.tasks) {
    const task = model.tasks.get(given.id)
    model.expect(task !== undefined, "kept", () => `a task was claimed that nobody has sent: ${show(given)}`)
    if (task !== undefined) admit(model, worker, wants.find(({ queue }) => queue === task.queue), task, given)
  }
  for (const { least, limited, tasks, want } of before) {
    const { ahead, queue, slots } = want
    const taken = claims.tasks.filter((given) => given.queue === queue).flatMap(({ id }) => model.tasks.get(id) ?? [])
    const again = claims.again.get(queue)
    // Where no slot is ever free, a broker may give one lost task ahead: else it would never run.
    model.expect(
      taken.length <= (limited ? slots : slots + ahead) &&
        taken.every(({ losses }, i) => losses === 0 || i < Math.max(slots, Math.min(ahead, 1))),
      "handled",
      () => `${queue} gave ${taken.map(({ alias, losses }) => `${alias} (${losses} losses)`)} for ${show(want)}`
    )
    if (taken.length > 0) withinLimits(model, queue, taken)
    if (!alone) continue
    const left = tasks.filter((task) => !taken.includes(task))
    inOrder(model, taken, left, !limited && !isKeyed([...taken, ...left]))
    if (!limited) inTurn(model, taken, tasks)
    // Told to look again at once, a worker does so.
    if (again === 0 || (fused === true && limited)) continue
    const enough = again === undefined || limited ? least : Math.min(1, least)
    model.expect(
      taken.length >= enough,
      "ready",
      () =>
        `${queue} gave ${taken.length} of ${enough} tasks for ${show(want)}; ready: ${tasks.map((task) => task.alias)}`
    )
  }
}
