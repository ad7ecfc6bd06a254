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

const Message = Schema.fromJsonString(Schema.Struct({
  from: Schema.String,
  queues: Schema.Union([
    Schema.Array(Schema.Tuple([Schema.String, Schema.Number, Schema.Number])),
    Schema.Literal("all")
  ])
}))
const encode = Schema.encodeSync(Message)
const decode = Schema.decodeUnknownOption(Message)

/** Durability is of no use to a hint. */
const notify = `select set_config('synchronous_commit', 'off', true), pg_notify($1, $2)`

/** Channels are shared by all schemas of a database. */
export const channelOf = (schema: string) => `horsies_wake_${schema}`.slice(0, 63)

export const make = Effect.fnUntraced(function*(
  database: Database,
  self: string,
  listener: SessionListener["Service"],
  /** Hears every wake-up before any subscriber does. */
  heard: (wakeUp: WakeUp) => void
) {
  const channel = channelOf(database.schema)
  const subscribers = new Set<Queue.Queue<WakeUp>>()
  const tell = (wakeUp: WakeUp) => {
    heard(wakeUp)
    for (const subscriber of subscribers) Queue.offerUnsafe(subscriber, wakeUp)
  }

  let pending = new Map<string, Announcement>()
  let everything = false
  const something = yield* Latch.make()

  const messages = () => {
    const rows = [...pending.values()]
    pending = new Map()
    const out: Array<string> = everything ? [encode({ from: self, queues: "all" })] : []
    everything = false
    while (rows.length > 0) {
      let size = 100
      let taken = 0
      while (taken < rows.length && size < mostPayload) size += Buffer.byteLength(rows[taken++]!.queue) * 2 + 40
      out.push(
        encode({
          from: self,
          queues: rows.splice(0, Math.max(1, taken - 1)).map((row) => [row.queue, row.priority, Math.round(row.dueIn)])
        })
      )
    }
    return out
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
        if (event._tag === "LookAgain") return tell({ _tag: "LookAgain" })
        const message = Option.getOrUndefined(decode(event.payload))
        if (message?.from === self) return
        // Also what another version of this code may have to say.
        if (message === undefined || message.queues === "all") return tell({ _tag: "LookAgain" })
        for (const [queue, priority, dueIn] of message.queues) tell({ _tag: "Sent", queue, priority, dueIn })
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
          const before = pending.get(queue)
          pending.set(queue, {
            queue,
            priority: Math.min(priority, before?.priority ?? priority),
            dueIn: Math.min(dueIn, before?.dueIn ?? dueIn)
          })
        }
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
