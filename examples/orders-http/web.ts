/** The HTTP server. It sends tasks and asks for their results, and runs none. */
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Config, Layer } from "effect"
import { createServer } from "node:http"
import { Database, Web } from "./service.ts"

Web.pipe(
  Layer.provide(Database),
  Layer.provide(NodeHttpServer.layerConfig(createServer, { port: Config.Int("PORT") })),
  Layer.launch,
  NodeRuntime.runMain
)
