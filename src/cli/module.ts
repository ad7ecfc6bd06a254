/** The module with the handlers. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import { existsSync } from "node:fs"
import { resolve } from "node:path"
import { pathToFileURL } from "node:url"
import type { Broker } from "../Broker.ts"
import type { Handlers } from "../Task.ts"

/** The module cannot be used. */
export class ModuleError extends Schema.TaggedError<ModuleError>()("ModuleError", { message: Schema.String }) {}

/** The layers of the module cannot be built. */
export class LayersFailed extends Schema.TaggedError<LayersFailed>()("LayersFailed", { message: Schema.String }) {}

/** The URL of a module that was given as a path from the working directory. */
export const find = (path: string): Effect.Effect<URL, ModuleError> =>
  Effect.suspend(() => {
    const file = resolve(path)
    return existsSync(file)
      ? Effect.succeed(pathToFileURL(file))
      : Effect.fail(new ModuleError({ message: `there is no module ${file}` }))
  })

/** Every export of the module that is a layer. */
export const layersOf = Effect.fnUntraced(function*(module: URL) {
  const exports = yield* Effect.tryPromise({
    try: () => import(module.href) as Promise<Readonly<Record<string, unknown>>>,
    catch: (cause) =>
      new ModuleError({
        message: `the module ${module.pathname} cannot be imported: ${Predicate.isError(cause) ? cause : String(cause)}`
      })
  })
  const [first, ...rest] = Object.values(exports).filter(Layer.isLayer) as ReadonlyArray<
    Layer.Layer<never, unknown, Broker | Handlers>
  >
  if (first === undefined) {
    return yield* new ModuleError({
      message:
        `none of the exports of ${module.pathname} is a layer; export the layers of handlers, as toLayer makes them`
    })
  }
  return Layer.catchCause(Layer.mergeAll(first, ...rest), (cause) =>
    Layer.effectDiscard(
      Cause.hasInterruptsOnly(cause)
        ? Effect.interrupt
        : Effect.fail(
          new LayersFailed({
            message: `the layers of ${module.pathname} cannot be built: ${Cause.pretty(cause)}`
          })
        )
    ))
})
