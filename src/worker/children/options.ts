/** Options of child processes. `Worker.ts` exports the types. */
import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import { availableParallelism } from "node:os"
import { resolve } from "node:path"
import { pathToFileURL } from "node:url"
import { count } from "../limits.ts"

/** Child processes of a worker. */
export interface Processes {
  /**
   * The module with the handlers: a URL, or a path from the working directory. Every export that is a layer counts. It is
   * imported by each child, and never by the worker itself.
   */
  readonly module: URL | string
  /** How many. Default: as many as the machine runs at once. One more is held ready to replace any of them. */
  readonly count?: number | undefined
  /** A child that has been given this many tasks ends with the last of them, and another takes its place. */
  readonly maxTasksPerChild?: number | undefined
  /**
   * Bytes of resident memory. A child above them gets no new task once another can take its place, and ends. A worker whose
   * children are larger before they have run anything does not start.
   */
  readonly maxMemoryPerChild?: number | undefined
  /** How long an interrupted handler may go on before its process is killed. Default: 1 second. */
  readonly interruptGrace?: Duration.Input | undefined
  /** After how long a blocked event loop is reported in the log. Default: 5 seconds. */
  readonly blockedWarning?: Duration.Input | undefined
  /** After how long a child whose event loop is blocked is killed and replaced. Default: 60 seconds. */
  readonly blockedTimeout?: Duration.Input | undefined
  /** How long a child may take to import the module and build its layers. Default: 60 seconds. */
  readonly startTimeout?: Duration.Input | undefined
  /** Options of Node for the children. Default: those of this process. */
  readonly execArgv?: ReadonlyArray<string> | undefined
}

/** The options, checked and complete. Durations are milliseconds. */
export interface Options {
  /** A URL. */
  readonly module: string
  readonly count: number
  readonly maxTasks: number
  readonly maxMemory: number
  readonly interruptGrace: number
  readonly blockedWarning: number
  readonly blockedTimeout: number
  readonly startTimeout: number
  readonly execArgv: ReadonlyArray<string> | undefined
}

/** The module for the child processes cannot be used. Says which one, and why. */
export class ChildModuleError extends Schema.TaggedError<ChildModuleError>()("ChildModuleError", {
  /** The URL of the module. */
  module: Schema.String,
  reason: Schema.String
}) {
  override get message(): string {
    return `the module ${this.module} cannot run tasks in child processes: ${this.reason}`
  }
}

const urlOf = (module: URL | string): string =>
  module instanceof URL
    ? module.href
    : /^(file|data):/.test(module)
    ? module
    : pathToFileURL(resolve(module)).href

const millis = (option: string, duration: Duration.Input): number => {
  const found = Duration.toMillis(Duration.fromInputUnsafe(duration))
  if (found > 0 && Number.isFinite(found)) return found
  throw new Error(`Worker.layer: processes.${option} is a finite duration of more than 0`)
}

/** Checks the options and fills in the defaults. */
export const optionsOf = (processes: Processes): Options => ({
  module: urlOf(processes.module),
  count: count("processes.count", processes.count ?? availableParallelism()),
  maxTasks: processes.maxTasksPerChild === undefined
    ? Number.POSITIVE_INFINITY
    : count("processes.maxTasksPerChild", processes.maxTasksPerChild),
  maxMemory: processes.maxMemoryPerChild === undefined
    ? Number.POSITIVE_INFINITY
    : count("processes.maxMemoryPerChild", processes.maxMemoryPerChild),
  interruptGrace: millis("interruptGrace", processes.interruptGrace ?? "1 second"),
  blockedWarning: millis("blockedWarning", processes.blockedWarning ?? "5 seconds"),
  blockedTimeout: millis("blockedTimeout", processes.blockedTimeout ?? "60 seconds"),
  startTimeout: millis("startTimeout", processes.startTimeout ?? "60 seconds"),
  execArgv: processes.execArgv
})
