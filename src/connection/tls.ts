/** What the `sslmode` of an endpoint means for the driver. */
import * as Effect from "effect/Effect"
import { ConnectionError, SqlError } from "effect/sql/SqlError"
import { readFileSync } from "node:fs"
import { isIP } from "node:net"
import type { ConnectionOptions } from "node:tls"
import type { Endpoint, Host } from "../PostgresUrl.ts"

/** One way to connect: without encryption, or with. */
export type Encryption = false | ConnectionOptions

const readPem = (parameter: string, path: string | undefined): Effect.Effect<Buffer | undefined, SqlError> =>
  path === undefined ? Effect.undefined : Effect.try({
    try: () => readFileSync(path),
    // Without the code of the file system's error: a certificate that is not there is nothing to wait for.
    catch: () => {
      const message = `the certificate file of ${parameter} cannot be read: ${path}`
      return new SqlError({
        reason: new ConnectionError({ cause: new Error(message), message, operation: "connect" })
      })
    }
  })

/**
 * The ways to connect to a host, in the order in which libpq tries them. `prefer` and `require` encrypt without asking
 * whose the certificate is, unless `require` is given certificates to trust; `verify-ca` asks who signed it,
 * `verify-full` also whether it names the host.
 *
 * @see https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION
 */
export const encryptions = Effect.fnUntraced(function*(
  endpoint: Endpoint,
  { host }: Host
): Effect.fn.Return<ReadonlyArray<Encryption>, SqlError> {
  // libpq does not encrypt over unix sockets.
  if (host.startsWith("/") || endpoint.sslMode === "disable") return [false]
  const ca = yield* readPem("sslrootcert", endpoint.sslRootCert)
  const cert = yield* readPem("sslcert", endpoint.sslCert)
  const key = yield* readPem("sslkey", endpoint.sslKey)
  const encrypted: ConnectionOptions = {
    ...(isIP(host) === 0 ? { servername: host } : {}),
    ...(ca === undefined ? {} : { ca }),
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key })
  }
  const unverified = { ...encrypted, rejectUnauthorized: false }
  const chainOnly = { ...encrypted, checkServerIdentity: () => undefined }
  switch (endpoint.sslMode) {
    case "allow":
      return [false, unverified]
    case "prefer":
      return [unverified, false]
    case "require":
      return [ca === undefined ? unverified : chainOnly]
    case "verify-ca":
      return [chainOnly]
    case "verify-full":
      return [{ ...encrypted, host }]
  }
})
