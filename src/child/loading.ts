/** Imports the module of a child process, and builds its layers. */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Predicate from "effect/Predicate"
import type * as Scope from "effect/Scope"
import { Broker, BrokerError, Misconfigured } from "../Broker.ts"
import * as PostgresConfig from "../PostgresConfig.ts"
import type { Handlers } from "../Task.ts"
import { LoadFailed } from "../worker/children/rpcs.ts"
import { decode } from "../worker/children/settings.ts"
import { Registry } from "./Registry.ts"

/** A module that is loaded. */
export interface Loaded {
  readonly handlers: Registry
  readonly context: Context.Context<Broker>
}

const failed = (message: string) => Effect.fail(new LoadFailed({ message }))

const imported = (module: string): Effect.Effect<Readonly<Record<string, unknown>>, LoadFailed> =>
  Effect.tryPromise({
    try: () => import(module) as Promise<Readonly<Record<string, unknown>>>,
    catch: (cause) =>
      new LoadFailed({ message: Predicate.isError(cause) ? cause.stack ?? cause.message : String(cause) })
  })

/** What can be used in a child of a worker without a database: a broker in memory is in the worker's process alone. */
const withoutDatabase = Effect.sync(() => {
  const refuse = () =>
    Effect.fail(
      new BrokerError({
        reason: new Misconfigured({
          field: "processes",
          code: "NO_BROKER_IN_CHILD",
          message: "the worker's settings for PostgreSQL are not known, so there is no broker in its child processes"
        })
      })
    )
  return Layer.mock(Broker)({
    send: refuse,
    outcome: refuse,
    find: refuse,
    list: refuse,
    whyNotRunning: refuse,
    cancel: refuse,
    resend: refuse,
    queue: refuse,
    configureQueue: refuse,
    transactional: Effect.succeed(false),
    transact: refuse
  })
})

/** A child's own connections, none of which is open before it is needed. */
const withDatabase = (settings: string) =>
  Effect.map(
    // Loaded only where there is a database: the driver is most of what a child needs memory for.
    Effect.promise(() => import("../PostgresBroker.ts")),
    ({ layerChild }) =>
      layerChild.pipe(
        Layer.provideMerge(Layer.sync(PostgresConfig.PostgresConfig, () => decode(settings)))
      )
  )

/** Without `settings` there is no database. The layers of the module stay until the scope closes. */
export const load = Effect.fnUntraced(function*(
  module: string,
  settings: string | undefined
): Effect.fn.Return<Loaded, LoadFailed, Scope.Scope> {
  const exports = yield* imported(module)
  const [first, ...rest] = Object.values(exports).filter(Layer.isLayer) as ReadonlyArray<
    Layer.Layer<never, unknown, Broker | Handlers>
  >
  if (first === undefined) return yield* failed("none of its exports is a layer")
  const handlers = new Registry()
  const services: Layer.Layer<Broker, unknown> = settings === undefined
    ? yield* withoutDatabase
    : yield* withDatabase(settings)
  const context = yield* Layer.mergeAll(first, ...rest).pipe(
    Layer.provide(handlers.layer(settings !== undefined)),
    Layer.provideMerge(services),
    Layer.build,
    Effect.catchCause((cause) => failed(Cause.pretty(cause)))
  )
  if (handlers.descriptions().length === 0) return yield* failed("its layers register no handler")
  // Handlers log where the worker does.
  return { handlers, context: Context.add(context, Logger.LogToStderr, yield* Logger.LogToStderr) }
})
