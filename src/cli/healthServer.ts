/** What an orchestrator asks: is the process alive, and is it ready? */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as Effect from "effect/Effect"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Layer from "effect/Layer"
import { createServer } from "node:http"
import * as Health from "../Health.ts"
import { Worker } from "../Worker.ts"

/** Alive while its loops go on and it can prove its lease; also while it shuts down. */
const live = Effect.map(Worker, ({ status }) =>
  HttpRouter.add(
    "GET",
    "/health",
    Effect.map(status, ({ alive, ...rest }) =>
      HttpServerResponse.jsonUnsafe({ status: alive ? "ok" : "unavailable", ...rest }, { status: alive ? 200 : 503 }))
  ))

/** Ready while its connections are up and it takes on work. */
const ready = Effect.map(Effect.all([Worker, Health.Health]), ([{ status }, { report }]) =>
  HttpRouter.add(
    "GET",
    "/ready",
    Effect.flatMap(status, ({ ready, stopping }) =>
      !ready
        ? Effect.succeed(
          HttpServerResponse.jsonUnsafe({ status: stopping ? "stopping" : "no child process" }, { status: 503 })
        )
        : Effect.map(report, Health.response))
  ))

export const routes = Layer.mergeAll(Layer.unwrap(live), Layer.unwrap(ready))

export const layer = (port: number) =>
  HttpRouter.serve(routes, { disableLogger: true }).pipe(
    Layer.provide(NodeHttpServer.layer(createServer, { port, gracefulShutdownTimeout: "1 second" }))
  )
