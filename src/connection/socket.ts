/** Sockets that can be destroyed from outside the driver: on a dead link nothing else ends a statement promptly. */
import type * as PgConnection from "@effect/sql-pg/PgConnection"
import * as Net from "node:net"

/** The first socket that `open` made is the connection; later ones carry cancel requests. */
export const ownedSocket = (config: PgConnection.Config): {
  readonly open: () => Net.Socket
  readonly destroy: () => void
} => {
  let socket: Net.Socket | undefined
  const host = config.host ?? "localhost"
  const port = config.port ?? 5432
  return {
    open: () => {
      const opened = host.startsWith("/")
        ? Net.connect({ path: `${host}/.s.PGSQL.${port}` })
        : Net.connect({ host, port, noDelay: true, keepAlive: true, keepAliveInitialDelay: 30_000 })
      socket ??= opened
      return opened
    },
    destroy: () => socket?.destroy()
  }
}
