/** Certificates of authorities that the tests make up, with the command `openssl`. */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { execFileSync } from "node:child_process"
import { chmodSync, chownSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { serverUser } from "../../src/embedded/user.ts"

/** Paths of PEM files. */
export interface Certificate {
  readonly cert: string
  readonly key: string
}

export interface Authority extends Certificate {
  /** Makes a certificate that the authority signs: for a name, and for the hosts that a server has. */
  readonly sign: (name: string, ...hosts: ReadonlyArray<`DNS:${string}` | `IP:${string}`>) => Certificate
}

export interface Certificates {
  readonly authority: (name: string) => Authority
  /** Writes a file that the server can read, as it can read the certificates. */
  readonly write: (name: string, text: string) => string
}

const openssl = (folder: string, ...args: ReadonlyArray<string>) => {
  try {
    execFileSync("openssl", args, { cwd: folder, stdio: "pipe" })
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cause
    throw new Error("openssl is not installed; run: apt-get install --yes openssl", { cause })
  }
}

/** A folder for certificates, removed with the scope. */
export const make: Effect.Effect<Certificates, never, Scope.Scope> = Effect.gen(function*() {
  const user = yield* serverUser
  const folder = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "effect-horsies-test-certificates-"))),
    (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
  )
  /** PostgreSQL uses no key that others could read. */
  const give = (path: string) => {
    chmodSync(path, path === folder ? 0o700 : 0o600)
    if (user !== undefined) chownSync(path, user.uid, user.gid)
    return path
  }
  give(folder)

  let serial = 0
  const request = (name: string, ...args: ReadonlyArray<string>): Certificate => {
    const [key, cert] = [join(folder, `${++serial}.key`), join(folder, `${serial}.crt`)]
    openssl(
      folder,
      "req",
      "-x509",
      "-newkey",
      "ec",
      "-pkeyopt",
      "ec_paramgen_curve:prime256v1",
      "-nodes",
      "-days",
      "2",
      "-subj",
      `/CN=${name}`,
      "-keyout",
      key,
      "-out",
      cert,
      ...args
    )
    return { cert: give(cert), key: give(key) }
  }
  return {
    authority: (name) => {
      const own = request(name)
      return {
        ...own,
        sign: (name, ...hosts) =>
          request(
            name,
            "-CA",
            own.cert,
            "-CAkey",
            own.key,
            "-addext",
            "basicConstraints=critical,CA:false",
            ...(hosts.length === 0 ? [] : ["-addext", `subjectAltName=${hosts.join(",")}`])
          )
      }
    },
    write: (name, text) => {
      const path = join(folder, name)
      writeFileSync(path, text)
      return give(path)
    }
  } satisfies Certificates
}).pipe(Effect.orDie)
