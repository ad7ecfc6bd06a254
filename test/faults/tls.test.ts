import { assert, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { SqlClient } from "effect/sql/SqlClient"
import * as PooledSql from "../../src/connection/PooledSql.ts"
import * as EmbeddedPostgres from "../../src/EmbeddedPostgres.ts"
import * as PostgresConfig from "../../src/PostgresConfig.ts"
import * as Certificates from "../support/certificates.ts"
import { start } from "../support/worker.ts"
import { Echo } from "../worker/tasks.ts"
import * as Brokers from "./brokers.ts"

/** Who may come in how. The superuser may come either way. */
const rules = `
host      all postgres       all scram-sha-256
hostssl   all only_encrypted all scram-sha-256
hostnossl all only_plain     all scram-sha-256
hostssl   all certified      all cert
hostssl   all with_both      all scram-sha-256 clientcert=verify-full
`

class Tls extends Context.Service<Tls, {
  /** Servers: one whose certificate names it, one with the certificate of another host, one without TLS. */
  readonly servers: Readonly<Record<"right" | "elsewhere" | "none", EmbeddedPostgres.Server>>
  /** Authorities: the one that signed the servers' certificates, and one that nobody knows. */
  readonly known: Certificates.Authority
  readonly unknown: Certificates.Authority
  readonly write: (name: string, text: string) => string
}>()("effect-horsies/test/faults/Tls") {
  static readonly layer = Layer.effect(
    Tls,
    Effect.gen(function*() {
      const { authority, write } = yield* Certificates.make
      const [known, unknown] = [authority("known"), authority("unknown")]
      const hba = write("pg_hba.conf", rules)
      const serve = ({ cert, key }: Certificates.Certificate) =>
        EmbeddedPostgres.make({
          durable: false,
          settings: { ssl: true, ssl_cert_file: cert, ssl_key_file: key, ssl_ca_file: known.cert, hba_file: hba }
        })
      const [right, elsewhere, none] = yield* Effect.all([
        serve(known.sign("server", "IP:127.0.0.1", "DNS:localhost")),
        serve(known.sign("server", "DNS:elsewhere.example")),
        EmbeddedPostgres.make({ durable: false })
      ], { concurrency: "unbounded" })
      yield* Effect.gen(function*() {
        const sql = yield* SqlClient
        for (const user of ["only_encrypted", "only_plain", "certified", "with_both"]) {
          yield* sql.unsafe(`create role ${user} login password 'of ${user}'`)
        }
      }).pipe(Effect.provide(pool(right.url)))
      return { servers: { right, elsewhere, none }, known, unknown, write }
    })
  )
}

const pool = (databaseUrl: Redacted.Redacted, options?: Partial<PostgresConfig.Options>) =>
  Layer.fresh(PooledSql.layer).pipe(
    Layer.provide(PostgresConfig.layer({ databaseUrl, poolSize: 1, maxOverflow: 0, ...options }))
  )

/** The way to a server with these parameters in its URL, as this user. */
const wayTo = (
  server: EmbeddedPostgres.Server,
  parameters: Readonly<Record<string, string | undefined>>,
  user?: string,
  host = "127.0.0.1"
) => {
  const url = new URL(Redacted.value(server.url))
  url.hostname = host
  if (user !== undefined) Object.assign(url, { username: user, password: `of ${user}` })
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined) url.searchParams.set(name, value)
  }
  return Redacted.make(url.href)
}

interface Session {
  readonly ssl: boolean
  readonly version: string | null
  readonly client: string | null
}

/** What the server knows about how a connection is encrypted. */
const session = Effect.gen(function*() {
  const sql = yield* SqlClient
  const [row] = yield* sql<Session>`
    select ssl, version, client_dn as client from pg_stat_ssl where pid = pg_backend_pid()`
  return row!
})

/** Connects, and asks the server how. */
const connect = (url: Redacted.Redacted) => Effect.provide(session, pool(url))

/** Why there is no connection: for good, and clearly. */
const refusal = Effect.fnUntraced(function*(url: Redacted.Redacted) {
  const error = yield* Effect.flip(connect(url))
  if (error._tag !== "BrokerError") return yield* Effect.die(error)
  assert.strictEqual(error.reason._tag, "Refused")
  assert.isFalse(error.isRetryable)
  return error.message
})

type Root = "none" | "right" | "wrong" | "missing" | "no certificate"

const modes = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] as const

/** What comes of each mode (in the order of `modes`) and file, as libpq has it, except that a file that is named must be there. */
const unknownIssuer = /self-signed certificate|unable to (get local issuer|verify)/i
const unreadable = /the certificate file of sslrootcert cannot be read: .*missing/
const noCertificate = /the file of sslrootcert holds no certificate/
const expected: Readonly<Record<Root, ReadonlyArray<"plain" | "encrypted" | RegExp>>> = {
  none: ["plain", "plain", "encrypted", "encrypted", unknownIssuer, unknownIssuer],
  right: ["plain", "plain", "encrypted", "encrypted", "encrypted", "encrypted"],
  wrong: ["plain", "plain", "encrypted", unknownIssuer, unknownIssuer, unknownIssuer],
  missing: ["plain", unreadable, unreadable, unreadable, unreadable, unreadable],
  "no certificate": ["plain", noCertificate, noCertificate, noCertificate, noCertificate, noCertificate]
}

layer(Tls.layer, { excludeTestServices: true, timeout: "30 seconds" })("TLS", (it) => {
  const rootOf = Effect.fnUntraced(function*(root: Root) {
    const { known, unknown, write } = yield* Tls
    return {
      none: undefined,
      right: known.cert,
      wrong: unknown.cert,
      missing: `${known.cert}.missing`,
      "no certificate": write("text.crt", "no certificate")
    }[root]
  })

  for (const root of ["none", "right", "wrong", "missing", "no certificate"] as const) {
    for (const [i, sslmode] of modes.entries()) {
      it.effect(`sslmode=${sslmode}, sslrootcert: ${root}`, () =>
        Effect.gen(function*() {
          const url = wayTo((yield* Tls).servers.right, { sslmode, sslrootcert: yield* rootOf(root) })
          const wanted = expected[root][i]!
          if (typeof wanted !== "string") return assert.match(yield* refusal(url), wanted)
          const { ssl, version } = yield* connect(url)
          assert.strictEqual(ssl ? "encrypted" : "plain", wanted)
          if (ssl) assert.match(version ?? "", /^TLSv1\.[23]$/)
        }))
    }
  }

  it.effect("the certificate of another host will do, unless sslmode is verify-full", () =>
    Effect.gen(function*() {
      const { known, servers } = yield* Tls
      for (const sslmode of ["prefer", "require", "verify-ca"]) {
        assert.isTrue((yield* connect(wayTo(servers.elsewhere, { sslmode, sslrootcert: known.cert }))).ssl)
      }
      const refused = yield* refusal(wayTo(servers.elsewhere, { sslmode: "verify-full", sslrootcert: known.cert }))
      assert.match(refused, /127\.0\.0\.1.*does not match certificate|does not match certificate.*127\.0\.0\.1/i)
    }))

  it.effect("a host is verified by its name as by its address", () =>
    Effect.gen(function*() {
      const { known, servers } = yield* Tls
      const parameters = { sslmode: "verify-full", sslrootcert: known.cert }
      assert.isTrue((yield* connect(wayTo(servers.right, parameters, undefined, "localhost"))).ssl)
    }))

  it.effect("a server without TLS is refused by whoever requires it, and by nobody else", () =>
    Effect.gen(function*() {
      const { none } = (yield* Tls).servers
      for (const sslmode of ["disable", "allow", "prefer"]) {
        assert.isFalse((yield* connect(wayTo(none, { sslmode }))).ssl)
      }
      for (const sslmode of ["require", "verify-ca", "verify-full"]) {
        assert.match(yield* refusal(wayTo(none, { sslmode })), /The server does not support TLS/)
      }
    }))

  it.effect("allow and prefer try the other way where the server's rules want it", () =>
    Effect.gen(function*() {
      const { right } = (yield* Tls).servers
      for (const sslmode of ["allow", "prefer", "require"]) {
        assert.isTrue((yield* connect(wayTo(right, { sslmode }, "only_encrypted"))).ssl)
      }
      assert.match(
        yield* refusal(wayTo(right, { sslmode: "disable" }, "only_encrypted")),
        /no pg_hba\.conf entry .*no encryption/
      )
      for (const sslmode of ["disable", "allow", "prefer"]) {
        assert.isFalse((yield* connect(wayTo(right, { sslmode }, "only_plain"))).ssl)
      }
      assert.match(
        yield* refusal(wayTo(right, { sslmode: "require" }, "only_plain")),
        /no pg_hba\.conf entry .*SSL encryption/
      )
    }))

  it.effect("a client certificate lets its user in, instead of a password or beside it", () =>
    Effect.gen(function*() {
      const { known, servers } = yield* Tls
      for (const user of ["certified", "with_both"]) {
        const { cert, key } = known.sign(user)
        const parameters = { sslmode: "verify-full", sslrootcert: known.cert, sslcert: cert, sslkey: key }
        assert.strictEqual((yield* connect(wayTo(servers.right, parameters, user))).client, `/CN=${user}`)
      }
    }))

  it.effect("a client certificate that does not fit is refused", () =>
    Effect.gen(function*() {
      const { known, servers, unknown, write } = yield* Tls
      const ofCertified = known.sign("certified")
      const attempt = (user: string, certificate: Partial<Certificates.Certificate>) =>
        refusal(wayTo(servers.right, { sslmode: "prefer", sslcert: certificate.cert, sslkey: certificate.key }, user))
      assert.match(yield* attempt("certified", {}), /connection requires a valid client certificate/)
      assert.match(yield* attempt("with_both", ofCertified), /authentication failed for user "with_both"/)
      assert.match(yield* attempt("certified", unknown.sign("certified")), /unknown ca|certificate/i)
      const missing = `${ofCertified.key}.missing`
      assert.include(yield* attempt("certified", { ...ofCertified, key: missing }), `sslkey cannot be read: ${missing}`)
      assert.match(
        yield* attempt("certified", { ...ofCertified, key: known.key }),
        /sslcert and sslkey.*key values mismatch/
      )
      assert.match(
        yield* attempt("certified", { ...ofCertified, key: write("text.key", "no key") }),
        /sslcert and sslkey/
      )
      assert.match(yield* attempt("certified", { cert: ofCertified.cert }), /sslcert and sslkey/)
    }))

  it.effect("every connection of a broker is encrypted: the pool's, the one that listens, and the one that beats", () =>
    Effect.gen(function*() {
      const { known, servers } = yield* Tls
      const url = wayTo(servers.right, { sslmode: "verify-full", sslrootcert: known.cert })
      const context = yield* Brokers.make({ databaseUrl: url, applicationName: "encrypted" })
      yield* Effect.provide(start(Echo.toLayer(({ text }) => Effect.succeed(text))), context)
      const handle = yield* Effect.provide(Echo.send({ text: "secret" }), context)
      assert.strictEqual(yield* Effect.provide(handle.await, context), "secret")
      const sql = Context.get(context, SqlClient)
      const rows = yield* sql`
        select count(*) >= 3 as connections, count(*) filter (where not ssl)::int as plain
        from pg_stat_activity join pg_stat_ssl using (pid) where application_name = 'encrypted'`
      assert.deepStrictEqual(rows, [{ connections: true, plain: 0 }])
    }))

  it.effect("the setting goes before what the URL says", () =>
    Effect.gen(function*() {
      const { servers } = yield* Tls
      const pooled = (ssl: "disable" | "verify-full") =>
        Effect.provide(session, pool(wayTo(servers.right, { sslmode: "prefer" }), { ssl }))
      assert.isFalse((yield* pooled("disable")).ssl)
      assert.match((yield* Effect.flip(pooled("verify-full"))).message, unknownIssuer)
    }))
})
