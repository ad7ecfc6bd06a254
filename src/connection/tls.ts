/** What the `sslmode` of an endpoint means for the driver. */
import * as Effect from "effect/Effect"
import { ConnectionError, SqlError } from "effect/sql/SqlError"
import { X509Certificate } from "node:crypto"
import { readFileSync } from "node:fs"
import { isIP } from "node:net"
import { type ConnectionOptions, createSecureContext } from "node:tls"
import type { Endpoint, Host } from "../PostgresUrl.ts"

/** One way to connect: without encryption, or with. */
export type Encryption = false | ConnectionOptions

/** A file that a URL names is of no use. It will not be there, or any better, a moment later. */
class CertificateUnusable extends Error {
  readonly code = "CERTIFICATE_UNUSABLE"
}

const unusable = (message: string) =>
  new SqlError({
    reason: new ConnectionError({ cause: new CertificateUnusable(message), message, operation: "connect" })
  })

const readPem = (parameter: string, path: string | undefined): Effect.Effect<Buffer | undefined, SqlError> =>
  path === undefined ? Effect.undefined : Effect.try({
    try: () => readFileSync(path),
    catch: () => unusable(`the certificate file of ${parameter} cannot be read: ${path}`)
  })

/** Made here rather than by the driver: what it throws there, nobody could catch. */
const readFiles = Effect.fnUntraced(function*(endpoint: Endpoint) {
  const ca = yield* readPem("sslrootcert", endpoint.sslRootCert)
  const cert = yield* readPem("sslcert", endpoint.sslCert)
  const key = yield* readPem("sslkey", endpoint.sslKey)
  if ((cert === undefined) !== (key === undefined)) {
    return yield* unusable("sslcert and sslkey go together: one of them is missing")
  }
  const secureContext = yield* Effect.try({
    try: () =>
      createSecureContext({ ...(ca === undefined ? {} : { ca }), ...(key === undefined ? {} : { cert, key }) }),
    catch: (cause) => unusable(`sslcert and sslkey cannot be used: ${cause instanceof Error ? cause.message : cause}`)
  })
  // Where there is no certificate in the file, none would be trusted.
  yield* Effect.try({
    try: () => ca !== undefined && new X509Certificate(ca),
    catch: () => unusable(`the file of sslrootcert holds no certificate: ${endpoint.sslRootCert}`)
  })
  return { secureContext, trusts: ca !== undefined }
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
  const { secureContext, trusts } = yield* readFiles(endpoint)
  const encrypted: ConnectionOptions = { secureContext, ...(isIP(host) === 0 ? { servername: host } : {}) }
  const unverified = { ...encrypted, rejectUnauthorized: false }
  const chainOnly = { ...encrypted, checkServerIdentity: () => undefined }
  switch (endpoint.sslMode) {
    case "allow":
      return [false, unverified]
    case "prefer":
      return [unverified, false]
    case "require":
      return [trusts ? chainOnly : unverified]
    case "verify-ca":
      return [chainOnly]
    case "verify-full":
      return [{ ...encrypted, host }]
  }
})
