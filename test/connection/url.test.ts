import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as PostgresUrl from "../../src/PostgresUrl.ts"

const parse = (url: string) => PostgresUrl.parse(Redacted.make(url))

/** What a URL says, its password in clear, without what it does not say. */
const read = (url: string) => {
  const endpoint = Result.getOrThrowWith(parse(url), (message) => new Error(message))
  const { connectTimeout, hosts, password, ...rest } = endpoint
  return Object.fromEntries(
    Object.entries({
      ...rest,
      hosts: hosts.map(({ host, port }) => `${host} ${port}`).join(", "),
      password: password === undefined ? undefined : Redacted.value(password),
      connectTimeout: connectTimeout === undefined ? undefined : Duration.toMillis(connectTimeout)
    }).filter(([, value]) => value !== undefined)
  )
}

const plain = { hosts: "localhost 5432", database: "app", sslMode: "prefer", targetSessionAttrs: "any" }

describe("a database URL", () => {
  for (
    const [url, expected] of [
      ["postgresql://localhost/app", plain],
      ["postgres://localhost/app", plain],
      ["postgresql+psycopg://localhost/app", plain],
      ["postgres+asyncpg://localhost/app", plain],
      ["PostgreSQL://localhost/app", plain],
      [" postgresql://localhost:5432/app\n", plain],
      ["postgresql:///app", plain],
      ["postgresql://db.example.org:6432/app", { ...plain, hosts: "db.example.org 6432" }],
      ["postgresql://u@localhost", { ...plain, database: "u", username: "u" }],
      ["postgresql://u:p@localhost/app", { ...plain, username: "u", password: "p" }],
      [
        "postgresql://us%40er:p%40ss%3A%2Fw%C3%B6rd%25@localhost/a%20pp",
        { ...plain, database: "a pp", username: "us@er", password: "p@ss:/wörd%" }
      ],
      ["postgresql://u:p@ss@localhost/app", { ...plain, username: "u", password: "p@ss" }],
      ["postgresql://u:p:q@localhost/app", { ...plain, username: "u", password: "p:q" }],
      ["postgresql://[::1]/app", { ...plain, hosts: "::1 5432" }],
      ["postgresql://u@[2001:db8::7]:5433/app", { ...plain, hosts: "2001:db8::7 5433", username: "u" }],
      ["postgresql:///app?host=::1", { ...plain, hosts: "::1 5432" }],
      ["postgresql://%2Fvar%2Frun%2Fpostgresql/app", { ...plain, hosts: "/var/run/postgresql 5432" }],
      ["postgresql:///app?host=/var/run/postgresql", { ...plain, hosts: "/var/run/postgresql 5432" }],
      ["postgresql:///app?host=/tmp&port=5433", { ...plain, hosts: "/tmp 5433" }],
      ["postgresql://a,b:5433,[::1]:5434/app", { ...plain, hosts: "a 5432, b 5433, ::1 5434" }],
      ["postgresql:///app?host=a,b&port=1,2", { ...plain, hosts: "a 1, b 2" }],
      ["postgresql:///app?host=a,b&port=6432", { ...plain, hosts: "a 6432, b 6432" }],
      [
        "postgresql://localhost/app?target_session_attrs=read-write",
        { ...plain, targetSessionAttrs: "read-write" }
      ],
      ["postgresql://localhost/app?target_session_attrs=primary", { ...plain, targetSessionAttrs: "read-write" }],
      [
        "postgresql://localhost/other?user=u&password=p%26q&dbname=app",
        { ...plain, username: "u", password: "p&q" }
      ],
      [
        "postgresql://localhost/app?sslmode=verify-full&sslrootcert=/ca.pem&sslcert=/c.pem&sslkey=/k.pem",
        { ...plain, sslMode: "verify-full", sslRootCert: "/ca.pem", sslCert: "/c.pem", sslKey: "/k.pem" }
      ],
      [
        "postgresql://localhost/app?application_name=a%20b&connect_timeout=7&options=-c%20work_mem%3D1MB",
        { ...plain, applicationName: "a b", connectTimeout: 7000, options: "-c work_mem=1MB" }
      ],
      ["postgresql://localhost/app?connect_timeout=0&channel_binding=prefer", plain]
    ] as const
  ) {
    it(`is read: ${url.trim()}`, () => assert.deepStrictEqual(read(url), expected))
  }

  const secret = "hunter2"
  for (
    const [url, message] of [
      ["", /missing.*HORSIES_DATABASE_URL.*postgresql:\/\//],
      [`${secret}`, /not a URL.*postgresql:\/\//],
      [`mysql://u:${secret}@localhost/app`, /scheme/],
      [`http://u:${secret}@localhost/app`, /scheme/],
      [`postgresqlx://u:${secret}@localhost/app`, /scheme/],
      [`//u:${secret}@localhost/app`, /not a URL/],
      [`postgresql://u:${secret}%zz@localhost/app`, /percent-encoding.*%25/],
      [`postgresql://u:${secret}@localhost:port/app`, /port/],
      [`postgresql://u:${secret}@localhost:70000/app`, /1 to 65535/],
      [`postgresql://u:${secret}@localhost:0/app`, /1 to 65535/],
      [`postgresql://u:${secret}@[::1/app`, /host cannot be read.*brackets|port/],
      [`postgresql://u:${secret}@localhost/app?sslmode=on`, /sslmode.*verify-full/],
      [`postgresql://u:${secret}@localhost/app?target_session_attrs=standby`, /target_session_attrs.*read-write/],
      [`postgresql://u:${secret}@localhost/app?connect_timeout=soon`, /connect_timeout.*seconds/],
      [`postgresql://u:${secret}@localhost/app?channel_binding=require`, /channel_binding.*verify-full/],
      [`postgresql://u:x@localhost/app?password=a&${secret}=b`, /parameter.*application_name/]
    ] as const
  ) {
    it(`is refused with what to write, never with a secret: ${url.replaceAll(secret, "***")}`, () => {
      const parsed = parse(url)
      const failure = Result.isFailure(parsed) ? parsed.failure : "it is read"
      assert.match(failure, message)
      assert.notInclude(failure, secret)
    })
  }
})
