/** Reads PostgreSQL connection URLs, without ever repeating their secrets. */
import * as Duration from "effect/Duration"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"

/** How to encrypt the connection. */
export type SslMode = "disable" | "allow" | "prefer" | "require" | "verify-ca" | "verify-full"

/** Where one server is and as whom to connect. */
export interface Endpoint {
  /** A host name, an address, or a folder with a unix socket (begins with `/`). */
  readonly host: string
  readonly port: number
  readonly database: string
  readonly username: string | undefined
  readonly password: Redacted.Redacted<string> | undefined
  readonly sslMode: SslMode
  readonly applicationName: string | undefined
  readonly connectTimeout: Duration.Duration | undefined
  /** Opaque start-up options (`-c name=value`). */
  readonly options: string | undefined
}

const sslModes = new Set<string>(["disable", "allow", "prefer", "require", "verify-ca", "verify-full"])
const isSslMode = (mode: string): mode is SslMode => sslModes.has(mode)

const known = [
  "host",
  "port",
  "user",
  "password",
  "dbname",
  "sslmode",
  "application_name",
  "options",
  "connect_timeout"
]

/**
 * Reads a connection URL as libpq does: percent-encoded credentials, IPv6 hosts, and the query parameters `host` (also a
 * socket folder), `port`, `user`, `password`, `dbname`, `sslmode`, `application_name`, `options` and `connect_timeout`.
 * A driver suffix of the scheme (`postgresql+driver:`) is ignored. The failure says what to write instead and never
 * contains any part of the URL that could be a secret.
 */
export const parse = (url: Redacted.Redacted<string>): Result.Result<Endpoint, string> => {
  const text = Redacted.value(url).trim()
  const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(text)?.[1]?.toLowerCase()
  if (scheme === undefined || !/^postgres(ql)?(\+[a-z0-9_.-]+)?$/.test(scheme)) {
    return Result.fail(
      `${scheme === undefined ? "it is not a URL" : `the scheme ${scheme}: is not PostgreSQL's`}; ` +
        "write postgresql://user:password@host:5432/database"
    )
  }
  // An empty host is libpq's way to say "the default one"; beside credentials URL refuses it.
  const parsed = Result.try(() =>
    new URL(text.replace(/^[^:]+:/, "postgresql:").replace(/^(postgresql:\/\/(?:[^/?#]*@)?)(?=[/?#]|$)/, "$1localhost"))
  )
  if (Result.isFailure(parsed)) {
    return Result.fail(
      "it cannot be read; write postgresql://user:password@host:5432/database and percent-encode special characters of the password"
    )
  }
  const { hash, hostname, password, pathname, port, searchParams, username } = parsed.success
  const decoded = Result.try(() => ({
    username: decodeURIComponent(username),
    password: decodeURIComponent(password),
    database: decodeURIComponent(pathname.slice(1)),
    host: decodeURIComponent(hostname)
  }))
  if (Result.isFailure(decoded)) {
    return Result.fail("its percent-encoding is broken; write % as %25")
  }
  if (hash !== "") {
    return Result.fail("it contains #; write # as %23")
  }
  for (const name of searchParams.keys()) {
    if (!known.includes(name)) {
      return Result.fail(`the parameter ${JSON.stringify(name)} is not known; known are ${known.join(", ")}`)
    }
  }
  const sslMode = searchParams.get("sslmode") ?? "prefer"
  if (!isSslMode(sslMode)) {
    return Result.fail(`sslmode is none of ${[...sslModes].join(", ")}`)
  }
  const portText = searchParams.get("port") ?? (port === "" ? "5432" : port)
  if (!/^\d+$/.test(portText) || Number(portText) < 1 || Number(portText) > 65535) {
    return Result.fail("the port is not a number from 1 to 65535")
  }
  const connectTimeout = searchParams.get("connect_timeout")
  if (connectTimeout !== null && !/^\d+$/.test(connectTimeout)) {
    return Result.fail("connect_timeout is not a whole number of seconds")
  }
  const user = (searchParams.get("user") ?? decoded.success.username) || undefined
  const secret = (searchParams.get("password") ?? decoded.success.password) || undefined
  return Result.succeed({
    host: searchParams.get("host") ?? decoded.success.host.replace(/^\[(.*)\]$/, "$1"),
    port: Number(portText),
    database: (searchParams.get("dbname") ?? decoded.success.database) || (user ?? "postgres"),
    username: user,
    password: secret === undefined ? undefined : Redacted.make(secret, { label: "password" }),
    sslMode,
    applicationName: searchParams.get("application_name") ?? undefined,
    connectTimeout: connectTimeout === null ? undefined : Duration.seconds(Number(connectTimeout)),
    options: searchParams.get("options") ?? undefined
  })
}
