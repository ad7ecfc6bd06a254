/** What the processes of a run have to know. Each finds it in its working directory: neither `ps` nor a log shows it. */
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import type { Options } from "../PostgresConfig.ts"

const file = "settings.json"

export const Settings = Schema.Struct({
  /** Which of the workers, or of the producers, it is, from 0. */
  slot: Schema.Int,
  databaseUrl: Schema.String,
  /** Where sessions go when `databaseUrl` leads to a transaction pool. */
  sessionDatabaseUrl: Schema.optionalKey(Schema.String),
  schema: Schema.String,
  /** Child processes of a worker; 0 when it runs handlers itself. */
  children: Schema.Int,
  /** Milliseconds. */
  lease: Schema.Int,
  /** Milliseconds. */
  heartbeatInterval: Schema.Int,
  seed: Schema.Int,
  /** The share of handlers that take long. */
  long: Schema.Finite,
  /** Tasks per second that a producer sends. */
  rate: Schema.Finite
})

export type Settings = typeof Settings.Type

const json = Schema.fromJsonString(Settings)

/** Leaves the settings in a folder for the processes that will run in it. */
export const write = (folder: string, settings: Settings): Effect.Effect<void> =>
  Effect.sync(() => writeFileSync(join(folder, file), Schema.encodeSync(json)(settings), { mode: 0o600 }))

/** The settings of this process. */
export const read: Effect.Effect<Settings> = Effect.sync(() =>
  Schema.decodeUnknownSync(json)(readFileSync(file, "utf8"))
)

/** The settings of the database, as `PostgresConfig.layer` takes them. */
export const database = (settings: Settings): Options => ({
  databaseUrl: Redacted.make(settings.databaseUrl),
  ...(settings.sessionDatabaseUrl === undefined ? {} : {
    sessionDatabaseUrl: Redacted.make(settings.sessionDatabaseUrl),
    pgbouncerTransactionMode: true
  }),
  schema: settings.schema,
  // Of this run alone: its backends are terminated by that name.
  applicationName: settings.schema,
  connectTimeout: "2 seconds",
  poolTimeout: "5 seconds",
  poolSize: 3,
  maxOverflow: 2,
  migrate: false
})
