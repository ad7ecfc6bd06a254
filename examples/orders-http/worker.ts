/** A worker in a process of its own. Start as many as there is work for, on as many machines. */
import { NodeRuntime } from "@effect/platform-node"
import { Layer } from "effect"
import { PostgresBroker, Worker } from "effect-horsies"
import { ShipOrderLive, Warehouse } from "./orders.ts"

ShipOrderLive.pipe(
  Layer.provide(Warehouse.layer),
  Layer.provideMerge(Worker.layer({ concurrency: 4 })),
  Layer.provide(PostgresBroker.layerWorkerConfig), // settings from the environment: DATABASE_URL, HORSIES_…
  Worker.launch, // SIGTERM: claims no more, lets running handlers end, hands back the rest; again: interrupts at once
  NodeRuntime.runMain
)
