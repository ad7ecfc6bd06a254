/**
 * Wake-ups: workers of this process are told at once; those of other processes by NOTIFY, which goes out apart from the
 * send because it serialises commits: at once when it was quiet, else once per window, the last one always.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type { WakeUp } from "../Broker.ts"
import { realClock } from "../connection/Deadlines.ts"
import type { SessionListener } from "../connection/SessionListener.ts"
import { wakeChannel } from "../schema/channel.ts"
import { type Database, text } from "./Database.ts"

/** What a send has to say to workers, per queue. */
export interface Announcement {
  readonly queue: string
  /** The most urgent priority among the tasks. */
  readonly priority: number
  /** Milliseconds until the earliest is due. */
  readonly dueIn: number
}

/** The time in which announcements are gathered once one has gone out. */
const window = Duration.millis(5)

/** NOTIFY carries less than 8000 bytes. */
const mostPayload = 7500

/** What processes tell each other. Who does not understand it looks again at everything. */
const Message = Schema.fromJsonString(Schema.Struct({
  from: Schema.String,
  /** Queue, priority, milliseconds until due. */
  queues: Schema.optionalKey(Schema.Array(Schema.Tuple([Schema.String, Schema.Number, Schema.Number]))),
  cancel: Schema.optionalKey(Schema.Array(Schema.String)),
  paused: Schema.optionalKey(Schema.Array(Schema.String)),
  all: Schema.optionalKey(Schema.Literal(true))
}))
type Message = typeof Message.Type
const encode = Schema.encodeSync(Message)
const decode = Schema.decodeUnknownOption(Message)

/** Durability is of no use to a hint. */
const notify = `select set_config('synchronous_commit', 'off', true), pg_notify($1, $2)`

export const make = Effect.fnUntraced(function*(
  database: Database,
  self: string,
  listener: SessionListener["Service"],
  /** Hears every wake-up before any subscriber does. */
  heard: (wakeUp: WakeUp) => void
) {
  const channel = wakeChannel(database.schema)
  const subscribers = new Set<Queue.Queue<WakeUp>>()
  const tell = (wakeUp: WakeUp) => {
    heard(wakeUp)
    for (const subscriber of subscribers) Queue.offerUnsafe(subscriber, wakeUp)
  }

  /** By queue, and by whether it is due: one that is due must not hide when the next one is. */
  let pending = new Map<string, Announcement>()
  let cancelling: Array<string> = []
  let pausing: Array<string> = []
  let everything = false
  const something = yield* Latch.make()

  const messages = (): ReadonlyArray<string> => {
    const out: Array<Omit<Message, "from">> = [
      ...parts(
        [...pending.values()].map((row) => [row.queue, row.priority, Math.round(row.dueIn)] as const),
        ([queue]) => Buffer.byteLength(queue) * 2 + 40
      ).map((queues) => ({ queues })),
      ...parts(cancelling, () => 40).map((cancel) => ({ cancel })),
      ...parts(pausing, (queue) => Buffer.byteLength(queue) * 2 + 10).map((paused) => ({ paused })),
      ...(everything ? [{ all: true as const }] : [])
    ]
    pending = new Map()
    cancelling = []
    pausing = []
    everything = false
    return out.map((message) => encode({ from: self, ...message }))
  }

  yield* Effect.forever(Effect.gen(function*() {
    yield* something.await
    // Closed before the pending ones are taken: what comes in from here on opens it again.
    yield* something.close
    for (const message of messages()) {
      // One that is lost is made good by the poll of the workers.
      yield* Effect.catch(
        database.run(notify, [text(channel), text(message)]),
        (error) => Effect.annotateLogs(Effect.logDebug("wake-up not sent"), error.annotations)
      )
    }
    yield* Effect.provideService(Effect.sleep(window), Clock.Clock, realClock)
  })).pipe(Effect.forkScoped)

  const events = yield* listener.subscribe(channel)
  yield* Stream.fromQueue(events).pipe(
    Stream.runForEach((event) =>
      Effect.sync(() => {
        const message = event._tag === "LookAgain" ? undefined : Option.getOrUndefined(decode(event.payload))
        if (message?.from === self) return
        // Also what another version of this code may have to say.
        if (message === undefined || message.all === true) return tell({ _tag: "LookAgain" })
        for (const [queue, priority, dueIn] of message.queues ?? []) tell({ _tag: "Sent", queue, priority, dueIn })
        if (message.cancel !== undefined) tell({ _tag: "Cancel", ids: message.cancel })
        for (const queue of message.paused ?? []) tell({ _tag: "Paused", queue })
      })
    ),
    Effect.forkScoped
  )

  return {
    /** Tells workers here and elsewhere. */
    announce: (announcements: ReadonlyArray<Announcement>) =>
      Effect.sync(() => {
        for (const announcement of announcements) {
          const { dueIn, priority, queue } = announcement
          tell({ _tag: "Sent", queue, priority, dueIn })
          const place = `${dueIn <= 0} ${queue}`
          const before = pending.get(place)
          pending.set(place, {
            queue,
            priority: Math.min(priority, before?.priority ?? priority),
            dueIn: Math.min(dueIn, before?.dueIn ?? dueIn)
          })
        }
        something.openUnsafe()
      }),
    /** Tells workers here and elsewhere that somebody wants tasks cancelled that one of them may hold. */
    cancel: (ids: ReadonlyArray<string>) =>
      Effect.sync(() => {
        tell({ _tag: "Cancel", ids })
        for (const id of ids) cancelling.push(id)
        something.openUnsafe()
      }),
    /** Tells workers here and elsewhere to hand back what they hold ready of a queue. */
    paused: (queue: string) =>
      Effect.sync(() => {
        tell({ _tag: "Paused", queue })
        pausing.push(queue)
        something.openUnsafe()
      }),
    /** Tells workers here and elsewhere that tasks of any queue may have become ready out of turn. */
    announceAll: Effect.sync(() => {
      tell({ _tag: "LookAgain" })
      everything = true
      something.openUnsafe()
    }),
    /** Wake-ups from here and elsewhere. */
    subscribe: Effect.gen(function*() {
      const queue = yield* Queue.unbounded<WakeUp>()
      yield* Effect.acquireRelease(
        Effect.sync(() => subscribers.add(queue)),
        () => Effect.andThen(Effect.sync(() => subscribers.delete(queue)), Queue.shutdown(queue))
      )
      return queue as Queue.Dequeue<WakeUp>
    })
  }
})

export type WakeUps = Effect.Success<ReturnType<typeof make>>

/** Parts of a list that each fit into one notification. */
const parts = <A>(all: ReadonlyArray<A>, size: (one: A) => number): ReadonlyArray<ReadonlyArray<A>> => {
  const found: Array<Array<A>> = []
  let room = 0
  for (const one of all) {
    room -= size(one)
    if (room < 0) {
      found.push([])
      room = mostPayload - 100 - size(one)
    }
    found.at(-1)!.push(one)
  }
  return found
}
