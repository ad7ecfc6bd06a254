/**
 * The second session connection: heartbeats and migrations. It is opened when it is first needed, so that a heartbeat
 * never waits behind the statements of the pool.
 */
import type * as PgClient from "@effect/sql-pg/PgClient"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Reactivity from "effect/reactivity/Reactivity"
import { PostgresConfig } from "../PostgresConfig.ts"
import { Siblings } from "./Siblings.ts"
import * as SqlPool from "./SqlPool.ts"

/** The session client; none when there is only a transaction pool. */
export class SessionSql extends Context.Service<SessionSql, {
  readonly client: PgClient.PgClient | undefined
}>()("effect-horsies/connection/SessionSql") {
  static readonly layer: Layer.Layer<SessionSql, never, PostgresConfig> = Layer.effect(
    SessionSql,
    Effect.gen(function*() {
      const config = yield* PostgresConfig
      if (config.session === undefined) return { client: undefined }
      const { client } = yield* SqlPool.make(config, {
        name: "session",
        endpoint: config.session,
        size: { size: 0, overflow: 1 },
        transactionPool: false,
        prePing: true,
        limited: false,
        unprovenEnds: true
      })
      return { client }
    })
  ).pipe(Layer.provide(Siblings.layer), Layer.provide(Reactivity.layer))

  /** No session of its own. */
  static readonly layerNone: Layer.Layer<SessionSql> = Layer.succeed(SessionSql, { client: undefined })
}
