/** The driver's settings for one endpoint. */
import type * as PgConnection from "@effect/sql-pg/PgConnection"
import type { PostgresConfig } from "../PostgresConfig.ts"
import type { Endpoint, SslMode } from "../PostgresUrl.ts"

const ssl = (mode: SslMode, servername: string): PgConnection.Config["ssl"] => {
  switch (mode) {
    case "disable":
    case "allow":
    case "prefer":
      return false
    case "require":
      return { rejectUnauthorized: false, servername }
    case "verify-ca":
      return { servername, checkServerIdentity: () => undefined }
    case "verify-full":
      return { servername }
  }
}

/** The driver never sees the URL: a URL that it cannot read ends up, password and all, in its error. */
export const connectionConfig = (config: PostgresConfig["Service"], endpoint: Endpoint): PgConnection.Config => ({
  host: endpoint.host,
  port: endpoint.port,
  database: endpoint.database,
  username: endpoint.username,
  password: endpoint.password,
  ssl: ssl(endpoint.sslMode, endpoint.host),
  applicationName: endpoint.applicationName ?? config.applicationName,
  startupOptions: endpoint.options,
  connectTimeout: endpoint.connectTimeout ?? config.connectTimeout,
  prepare: !config.pgbouncerTransactionMode || endpoint !== config.database
})
