/** Where the handlers of a module register in a child process: nothing claims for them here. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { type Handler, Handlers } from "../Task.ts"
import type { Description } from "../worker/children/rpcs.ts"

export class Registry {
  private readonly handlers = new Map<string, Handler>()

  /** `transactions`: whether attempts can run inside a database transaction. */
  layer(transactions: boolean): Layer.Layer<Handlers> {
    const { handlers } = this
    return Layer.succeed(
      Handlers,
      Handlers.of({
        transactions,
        register: (handler) => {
          const { name } = handler.definition
          return handlers.has(name)
            ? Effect.die(new Error(`there are two handlers for the task ${name}`))
            : Effect.acquireRelease(
              Effect.sync(() => void handlers.set(name, handler)),
              () => Effect.sync(() => handlers.delete(name))
            )
        }
      })
    )
  }

  get(name: string): Handler | undefined {
    return this.handlers.get(name)
  }

  descriptions(): ReadonlyArray<Description> {
    return [...this.handlers.values()].map(({ batch, definition }) => ({ definition, batch: batch?.size }))
  }
}
