/** The proxy of the torture program, between an echo and its clients. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Net from "node:net"
import * as Proxy from "../../src/verify/Proxy.ts"

/** A server that sends back what it gets. */
const echo = Effect.acquireRelease(
  Effect.callback<Net.Server>((resume) => {
    const server = Net.createServer((socket) => {
      socket.on("error", () => undefined)
      socket.pipe(socket)
    })
    server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
  }),
  (server) => Effect.sync(() => server.close())
)

interface Client {
  readonly write: (text: string) => void
  readonly heard: () => string
  /** Waits until so much was heard. */
  readonly hears: (text: string) => Effect.Effect<void>
  /** Waits for the end, and says how it came. */
  readonly ended: Effect.Effect<string>
}

const connect = (port: number) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      let heard = ""
      let end: string | undefined
      let look: () => void = () => undefined
      const changed = () => look()
      const socket = Net.connect(port, "127.0.0.1")
      socket.setEncoding("utf8").on("data", (text) => {
        heard += text
        changed()
      })
      socket.on("error", (error: NodeJS.ErrnoException) => {
        end ??= error.code ?? error.message
        changed()
      })
      socket.on("close", () => {
        end ??= "end"
        changed()
      })
      const until = <A>(is: () => A | undefined) =>
        Effect.callback<A>((resume) => {
          look = () => {
            const found = is()
            if (found !== undefined) resume(Effect.succeed(found))
          }
          look()
        })
      const client: Client = {
        write: (text) => void socket.write(text),
        heard: () => heard,
        hears: (text) => Effect.asVoid(until(() => heard === text ? true : undefined)),
        ended: until(() => end)
      }
      return { client, socket }
    }),
    ({ socket }) => Effect.sync(() => socket.destroy())
  ).pipe(Effect.map(({ client }) => client))

const setUp = Effect.gen(function*() {
  const { port } = (yield* echo).address() as Net.AddressInfo
  const proxy = yield* Proxy.make({ host: "127.0.0.1", port })
  const client = yield* connect(proxy.port)
  client.write("hello")
  yield* client.hears("hello")
  return { proxy, client }
})

describe("the proxy", () => {
  it.live("passes everything on", () =>
    Effect.gen(function*() {
      const { client } = yield* setUp
      const much = "x".repeat(3_000_000)
      client.write(much)
      yield* client.hears(`hello${much}`)
    }).pipe(Effect.scoped))

  it.live("resets or ends the links that are there, and passes on new ones", () =>
    Effect.gen(function*() {
      const { client, proxy } = yield* setUp
      assert.strictEqual(yield* proxy.cut("reset"), 1)
      assert.strictEqual(yield* client.ended, "ECONNRESET")
      const next = yield* connect(proxy.port)
      next.write("again")
      yield* next.hears("again")
      assert.strictEqual(yield* proxy.cut("end"), 1)
      assert.strictEqual(yield* next.ended, "end")
      assert.strictEqual(yield* proxy.cut("end"), 0)
    }).pipe(Effect.scoped))

  it.live("cuts an answer in half", () =>
    Effect.gen(function*() {
      const { client, proxy } = yield* setUp
      yield* proxy.cut("half")
      client.write("12345678")
      yield* client.hears("hello1234")
      assert.strictEqual(yield* client.ended, "ECONNRESET")
    }).pipe(Effect.scoped))

  it.live("swallows what comes over a dead link without a sign, until that is reset", () =>
    Effect.gen(function*() {
      const { client, proxy } = yield* setUp
      const { links, over } = yield* proxy.swallow
      assert.strictEqual(links, 1)
      client.write("nobody hears this")
      const other = yield* connect(proxy.port)
      other.write("others are heard")
      yield* other.hears("others are heard")
      assert.strictEqual(client.heard(), "hello")
      yield* over
      assert.strictEqual(yield* client.ended, "ECONNRESET")
      other.write(", and stay")
      yield* other.hears("others are heard, and stay")
    }).pipe(Effect.scoped))

  it.live("parts its two sides: new links are as dead as the old ones, until that is over", () =>
    Effect.gen(function*() {
      const { client, proxy } = yield* setUp
      const { links, over } = yield* proxy.part
      assert.strictEqual(links, 1)
      const other = yield* connect(proxy.port)
      for (const dead of [client, other]) dead.write("nobody hears this")
      yield* Effect.sleep(100)
      assert.deepStrictEqual([client.heard(), other.heard()], ["hello", ""])
      yield* over
      for (const dead of [client, other]) assert.strictEqual(yield* dead.ended, "ECONNRESET")
      const next = yield* connect(proxy.port)
      next.write("again")
      yield* next.hears("again")
    }).pipe(Effect.scoped))

  it.live("delays what goes through, and keeps its order when the delay ends", () =>
    Effect.gen(function*() {
      const { client, proxy } = yield* setUp
      yield* proxy.delay(50)
      const before = performance.now()
      client.write("one")
      yield* client.hears("helloone")
      assert.isAtLeast(performance.now() - before, 95)
      client.write("two")
      yield* proxy.delay(-50)
      client.write("three")
      yield* client.hears("helloonetwothree")
    }).pipe(Effect.scoped))

  it.live("cuts in half what is late, not what comes after it", () =>
    Effect.gen(function*() {
      const { client, proxy } = yield* setUp
      yield* proxy.delay(100)
      client.write("12345678")
      // On its way back.
      yield* Effect.sleep(150)
      yield* proxy.cut("half")
      yield* client.hears("hello1234")
      assert.strictEqual(yield* client.ended, "ECONNRESET")
    }).pipe(Effect.scoped))
})
