/** How a worker is doing, by its own account: every few heartbeats carry it to the broker. */
import type * as Schema from "effect/Schema"
import type { ChildOccupancy, QueueOccupancy, WorkerSnapshot } from "../Broker.ts"

/** One heartbeat in so many carries a snapshot. The first does. */
export const heartbeatsPerSnapshot = 3

export interface Options {
  readonly queues: () => ReadonlyArray<QueueOccupancy>
  readonly processes: () => ReadonlyArray<ChildOccupancy>
  readonly settings: Readonly<Record<string, Schema.Json>>
}

const sum = (values: ReadonlyArray<number>) => values.reduce((total, value) => total + value, 0)

/** Takes snapshots. Each says what was used of the processors since the one before. */
export const make = (options: Options, now: () => number): () => WorkerSnapshot => {
  let used = process.cpuUsage()
  let usedAt = now()

  return () => {
    const usage = process.cpuUsage()
    const at = now()
    const micros = usage.user + usage.system - used.user - used.system
    const cpu = at > usedAt ? micros / 1000 / (at - usedAt) : 0
    used = usage
    usedAt = at
    const queues = options.queues()
    return {
      queues,
      running: sum(queues.map(({ running }) => running)),
      claimed: sum(queues.map(({ claimed }) => claimed)),
      processes: options.processes(),
      memory: process.memoryUsage.rss(),
      cpu,
      settings: options.settings
    }
  }
}
