/** Reads PostgreSQL connection URLs as libpq does, without ever repeating their secrets. */
import * as Duration from "effect/Duration"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"

/** How to encrypt the connection, from not at all to with a certificate that names the host. */
export const sslModes = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] as const

/** How to encrypt the connection. */
export type SslMode = typeof sslModes[number]

/** Which of several hosts will do: any, or one that accepts writes. */
export type TargetSessionAttrs = "any" | "read-write"

/** One server of an endpoint. */
export interface Host {
  /** A host name, an address, or a folder with a unix socket (begins with `/`). */
  readonly host: string
  readonly port: number
}

/** Where the server is, or the servers are, and as whom to connect. */
export interface Endpoint {
  /** In the order in which they are tried. */
  readonly hosts: readonly [Host, ...Array<Host>]
  readonly targetSessionAttrs: TargetSessionAttrs
  readonly database: string
  readonly username: string | undefined
  readonly password: Redacted.Redacted<string> | undefined
  readonly sslMode: SslMode
  /** Paths of PEM files: the certificates to trust, and the client's own certificate and key. */
  readonly sslRootCert: string | undefined
  readonly sslCert: string | undefined
  readonly sslKey: string | undefined
  readonly applicationName: string | undefined
  readonly connectTimeout: Duration.Duration | undefined
  /** Opaque start-up options (`-c name=value`). */
  readonly options: string | undefined
}

const isSslMode = (mode: string): mode is SslMode => sslModes.some((known) => known === mode)

const known = new Set([
  "host",
  "port",
  "user",
  "password",
  "dbname",
  "sslmode",
  "sslrootcert",
  "sslcert",
  "sslkey",
  "channel_binding",
  "target_session_attrs",
  "application_name",
  "options",
  "connect_timeout"
])

const shape = "postgresql://user:password@host:5432/database"

/** Scheme, credentials, hosts, path, query. A password may hold an unencoded @: the last one ends the credentials. */
const parts = /^([a-z][a-z0-9+.-]*):(?:\/\/(?:([^/?]*)@)?([^/?@]*))?(?:\/([^?]*))?(?:\?(.*))?$/is

/**
 * Reads a connection URL: percent-encoded credentials, IPv6 hosts, several hosts separated by commas, and the query
 * parameters `host` (also a socket folder), `port`, `user`, `password`, `dbname`, `sslmode`, `sslrootcert`, `sslcert`,
 * `sslkey`, `channel_binding`, `target_session_attrs`, `application_name`, `options` and `connect_timeout`. A driver
 * suffix of the scheme (`postgresql+driver:`) is ignored. The failure says what to write instead and never contains any
 * part of the URL that could be a secret.
 *
 * @see https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS
 */
export const parse = (url: Redacted.Redacted<string>): Result.Result<Endpoint, string> => {
  const text = Redacted.value(url).trim()
  if (text === "") {
    return Result.fail(`it is missing; set HORSIES_DATABASE_URL or DATABASE_URL, or write ${shape}`)
  }
  const match = parts.exec(text)
  if (match === null) {
    return Result.fail(`it is not a URL; write ${shape}`)
  }
  const [, scheme = "", credentials = "", hostList = "", path = "", query = ""] = match
  if (!/^postgres(ql)?(\+[a-z0-9_.-]+)?$/i.test(scheme)) {
    return Result.fail(`its scheme is not postgresql: or postgres:; write ${shape}`)
  }
  const decoded = Result.try(() => ({
    username: decodeURIComponent(credentials.split(":", 1)[0] ?? ""),
    password: decodeURIComponent(credentials.includes(":") ? credentials.slice(credentials.indexOf(":") + 1) : ""),
    hosts: hostList.split(",").map(decodeURIComponent),
    database: decodeURIComponent(path),
    parameters: new Map(
      query.split("&").filter((pair) => pair !== "").map((pair): [string, string] => {
        const at = pair.indexOf("=")
        return [decodeURIComponent(pair.slice(0, at)), at < 0 ? "" : decodeURIComponent(pair.slice(at + 1))]
      })
    )
  }))
  return Result.isFailure(decoded)
    ? Result.fail("its percent-encoding is broken; write % as %25")
    : endpoint(decoded.success)
}

const endpoint = ({ database, hosts, parameters, password, username }: {
  readonly username: string
  readonly password: string
  readonly hosts: ReadonlyArray<string>
  readonly database: string
  readonly parameters: ReadonlyMap<string, string>
}): Result.Result<Endpoint, string> => {
  for (const name of parameters.keys()) {
    // The part before the `=` only: a stray `&` in a password would put a piece of it here.
    if (!known.has(name)) {
      return Result.fail(`it has a parameter that is not known; write none but ${[...known].join(", ")}`)
    }
  }
  const sslMode = parameters.get("sslmode") ?? "prefer"
  if (!isSslMode(sslMode)) return Result.fail(`sslmode is not known; write one of ${sslModes.join(", ")}`)
  const target = parameters.get("target_session_attrs") ?? "any"
  if (target !== "any" && target !== "read-write" && target !== "primary") {
    return Result.fail("target_session_attrs is not known; write one of any, read-write, primary: the broker writes")
  }
  if (parameters.get("channel_binding") === "require") {
    return Result.fail(
      "channel_binding=require is not supported; write sslmode=verify-full, and channel_binding=prefer"
    )
  }
  const connectTimeout = parameters.get("connect_timeout")
  if (connectTimeout !== undefined && !/^\d+$/.test(connectTimeout)) {
    return Result.fail("connect_timeout is not a number; write whole seconds")
  }
  const named = parameters.get("host")?.split(",").map((host) => isBareIPv6.test(host) ? `[${host}]` : host)
  const listed = readHosts(named ?? hosts, parameters.get("port")?.split(","))
  if (typeof listed === "string") return Result.fail(listed)
  const user = (parameters.get("user") ?? username) || undefined
  const secret = (parameters.get("password") ?? password) || undefined
  return Result.succeed({
    hosts: listed,
    targetSessionAttrs: target === "any" ? "any" : "read-write",
    database: (parameters.get("dbname") ?? database) || (user ?? "postgres"),
    username: user,
    password: secret === undefined ? undefined : Redacted.make(secret, { label: "password" }),
    sslMode,
    sslRootCert: parameters.get("sslrootcert"),
    sslCert: parameters.get("sslcert"),
    sslKey: parameters.get("sslkey"),
    applicationName: parameters.get("application_name"),
    // For libpq, 0 is to wait for ever; for us, as long as the settings say.
    connectTimeout: Number(connectTimeout ?? 0) === 0 ? undefined : Duration.seconds(Number(connectTimeout)),
    options: parameters.get("options")
  })
}

/** As the parameter `host` may have it. */
const isBareIPv6 = /^[0-9a-f.]*:[0-9a-f.]*:[0-9a-f:.]*(%\w+)?$/i

/** `name`, `name:port`, `[address]:port`, or a folder; ports given apart go with the hosts one by one, or one with all. */
const readHosts = (hosts: ReadonlyArray<string>, ports: ReadonlyArray<string> | undefined) => {
  const read: Array<Host> = []
  for (const [i, text] of hosts.entries()) {
    const match = /^(?:\[([^\]]*)\]|(\/.*?)|([^:]*))(?::(.*))?$/s.exec(text)
    if (match === null) return "a host cannot be read; write an IPv6 address in brackets: [::1]:5432"
    const port = (ports === undefined ? undefined : ports.length === 1 ? ports[0] : ports[i]) || match[4] || "5432"
    if (!/^\d+$/.test(port) || Number(port) < 1 || Number(port) > 65_535) {
      return "the port is not a number; write one from 1 to 65535"
    }
    read.push({ host: match[1] ?? match[2] ?? (match[3] || "localhost"), port: Number(port) })
  }
  const [first, ...rest] = read
  return first === undefined ? `it has no host; write ${shape}` : [first, ...rest] as const
}
