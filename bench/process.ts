/** The main module of a contestant's processes: does what it is asked, one thing at a time. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeWorkerRunner from "@effect/platform-node/NodeWorkerRunner"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as RpcServer from "effect/rpc/RpcServer"
import * as Scope from "effect/Scope"
import { now } from "./clock.ts"
import { type Contestant, contestants, type Name } from "./contestant.ts"
import { ofProcess } from "./processorTime.ts"
import { type Profile, startProfile } from "./profile.ts"
import { Broken, Rpcs } from "./rpcs.ts"
import { Tally } from "./Tally.ts"

// However the benchmark ends, its processes do not stay.
process.once("disconnect", () => process.exit())

const typed = <A, R>(self: Effect.Effect<A, unknown, R>): Effect.Effect<A, Broken, R> =>
  Effect.catchCause(self, (cause) =>
    Cause.hasInterruptsOnly(cause)
      ? Effect.interrupt
      : Effect.fail(new Broken({ message: Cause.pretty(cause) })))

const make = (contestant: Contestant) => {
  let scope = Scope.makeUnsafe()
  let send: Effect.Success<ReturnType<Contestant["sender"]>> = () => Effect.die("not prepared")
  let tally = new Tally(0)
  let cpuBefore = 0
  let profile: Profile | undefined

  return Rpcs.of({
    Prepare: ({ url }) =>
      contestant.sender(url).pipe(
        Scope.provide(scope),
        Effect.map((sender) => {
          send = sender
        }),
        typed
      ),
    Send: Effect.fnUntraced(function*({ tasks }) {
      const payloads = Array.from({ length: tasks }, (_, n) => ({ n }))
      const before = ofProcess()
      const startedAt = now()
      yield* send(payloads)
      return { startedAt, endedAt: now(), cpu: ofProcess() - before }
    }, typed),
    Start: Effect.fnUntraced(function*(options) {
      tally = new Tally(options.tasks)
      if (options.profile) profile = yield* startProfile
      cpuBefore = ofProcess()
      const startedAt = now()
      yield* Scope.provide(contestant.worker(options.url, tally.ran), scope)
      return { startedAt }
    }, typed),
    Ran: () => Effect.map(tally.all.await, () => ({ firstAt: tally.firstAt, lastAt: tally.lastAt })),
    Close: Effect.fnUntraced(function*() {
      const cpu = ofProcess() - cpuBefore
      const profiled = profile === undefined ? undefined : yield* profile.stop
      profile = undefined
      yield* Scope.close(scope, Exit.void)
      scope = Scope.makeUnsafe()
      return { cpu, problem: tally.problem(), profile: profiled }
    }, typed)
  })
}

const Handlers = Rpcs.toLayer(Effect.gen(function*() {
  const name = process.argv[2] as Name
  const { contestant } = yield* Effect.promise(() => contestants[name]())
  return make(contestant)
}))

// Untraced: a span of the request must not become the parent of everything that a worker does.
RpcServer.layer(Rpcs, { disableTracing: true }).pipe(
  Layer.provide(Handlers),
  Layer.provide(RpcServer.layerProtocolWorkerRunner),
  Layer.provide(NodeWorkerRunner.layer),
  Layer.launch,
  NodeRuntime.runMain
)
