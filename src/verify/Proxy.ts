/**
 * A TCP proxy between the processes of a run and their server. It passes everything on, until it is told to cut, to
 * swallow or to delay what goes through it.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Net from "node:net"

/** Where a server listens. */
export interface Address {
  readonly host: string
  readonly port: number
}

/** How links end. `half`: in the middle of what comes next from the server. */
export type Cut = "reset" | "end" | "half"

export interface Proxy {
  readonly port: number
  /** Ends the links that are there. Succeeds with how many there were. */
  readonly cut: (how: Cut) => Effect.Effect<number>
  /** From now on the links that are there swallow everything, without a sign to either side. */
  readonly swallow: Effect.Effect<Dead>
  /** The same, and so do those that come until it is over: nothing gets through. */
  readonly part: Effect.Effect<Dead>
  /** Everything is late by so many milliseconds more from now on, in each direction; by less again when negative. */
  readonly delay: (millis: number) => Effect.Effect<void>
}

/** Links that swallow everything. */
export interface Dead {
  /** How many they were. */
  readonly links: number
  /** Resets them. */
  readonly over: Effect.Effect<void>
}

interface Link {
  readonly client: Net.Socket
  readonly server: Net.Socket
  swallows: boolean
  /** Of the next piece from the server only half goes through. */
  halves: boolean
  isReset: boolean
}

/** Bytes that may wait for a socket before its peer has to. */
const most = 1 << 20

/** Starts a proxy that ends with the scope. */
export const make = Effect.fnUntraced(function*(
  target: Address
): Effect.fn.Return<Proxy, never, Scope.Scope> {
  const fork = Effect.runForkWith(yield* Effect.context<never>())
  const links = new Set<Link>()
  /** Links that came while nothing got through, for each time that is not over. */
  const parted = new Set<Array<Link>>()
  let late = 0

  /** One that is to be reset, or is being ended, must not be reset again: Node would never close it. */
  const reset = (socket: Net.Socket) =>
    // There is no RST before a connection is there.
    socket.connecting || socket.writableEnded ? socket.destroy() : socket.resetAndDestroy()

  const drop = (link: Link, how: Cut = "reset") => {
    links.delete(link)
    if (link.isReset) return
    link.isReset = how !== "end"
    for (const socket of [link.client, link.server]) {
      if (how === "end") socket.end(() => socket.destroy())
      else reset(socket)
    }
  }

  const forward = (link: Link, from: Net.Socket, to: Net.Socket) => {
    /** Pieces that are late, in their order. */
    const waiting: Array<{ readonly due: number; readonly bytes: Buffer }> = []
    const pass = (bytes: Buffer) => {
      if (link.swallows || to.destroyed) return
      if (link.halves && from === link.server) {
        to.write(bytes.subarray(0, Math.ceil(bytes.length / 2)), () => drop(link))
        link.swallows = true
      } else if (!to.write(bytes) && to.writableLength > most) from.pause()
    }
    const pump = Effect.gen(function*() {
      for (let piece = waiting[0]; piece !== undefined; piece = waiting[0]) {
        yield* Effect.sleep(Math.max(0, piece.due - performance.now()))
        pass(piece.bytes)
        waiting.shift()
      }
    })
    from.on("data", (bytes) => {
      if (late > 0 || waiting.length > 0) {
        waiting.push({ due: performance.now() + late, bytes })
        if (waiting.length === 1) fork(pump)
      } else pass(bytes)
    })
    to.on("drain", () => from.resume())
    from.on("error", () => link.swallows || drop(link))
    from.once("close", () => {
      if (!link.swallows) drop(link, "end")
      else if (from === link.client) drop(link)
    })
  }

  const listener = Net.createServer((client) => {
    const server = Net.connect({ ...target, noDelay: true })
    client.setNoDelay(true)
    const link: Link = { client, server, swallows: parted.size > 0, halves: false, isReset: false }
    links.add(link)
    for (const dead of parted) dead.push(link)
    forward(link, client, server)
    forward(link, server, client)
  })
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => {
      listener.once("error", (error) => resume(Effect.die(error)))
      listener.listen(0, "127.0.0.1", () => resume(Effect.void))
    }),
    () =>
      Effect.sync(() => {
        for (const link of links) drop(link)
        listener.close()
      })
  )
  const swallow = () => {
    const dead = [...links]
    for (const link of dead) link.swallows = true
    return { dead, links: dead.length, over: Effect.sync(() => dead.forEach((link) => drop(link))) }
  }
  const address = listener.address() as Net.AddressInfo

  return {
    port: address.port,
    cut: (how) =>
      Effect.sync(() => {
        // One that is dead has nothing that could be cut in half.
        const found = [...links].filter(({ swallows }) => how !== "half" || !swallows)
        for (const link of found) {
          if (how === "half") link.halves = true
          else drop(link, how)
        }
        return found.length
      }),
    swallow: Effect.sync(() => swallow()),
    part: Effect.sync(() => {
      const { dead, links, over } = swallow()
      parted.add(dead)
      return { links, over: Effect.andThen(Effect.sync(() => parted.delete(dead)), over) }
    }),
    delay: (millis) => Effect.sync(() => void (late += millis))
  }
})
