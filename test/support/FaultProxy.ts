/** A TCP proxy that a test owns: it stands between clients and their server, and breaks what goes through it on purpose. */
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { randomInt } from "node:crypto"
import * as Net from "node:net"

/** Where the bytes go: requests from client to server, answers back. */
export type Direction = "requests" | "answers"

/** What happens to all links until it is changed. */
export interface Weather {
  /** Milliseconds that every piece is late, in each direction. */
  readonly delay: number
  /** In each direction of each link. */
  readonly bytesPerSecond: number
  /** What becomes of a new link. `swallow`: it is accepted, and nothing ever comes through. */
  readonly newLinks: "forward" | "swallow" | "refuse"
}

const fair: Weather = { delay: 0, bytesPerSecond: Number.POSITIVE_INFINITY, newLinks: "forward" }

/** What went through, as the proxy saw it arrive. */
export interface Counters {
  readonly accepted: number
  readonly open: number
  readonly requestBytes: number
  readonly answerBytes: number
  /** Pieces in which requests arrived: about one for each statement. */
  readonly requests: number
}

export interface FaultProxy {
  readonly port: number
  /** The same URL, through the proxy, and without the detour of asking for TLS. */
  readonly through: (url: Redacted.Redacted) => Redacted.Redacted
  readonly set: (weather: Partial<Weather>) => Effect.Effect<void>
  /** Fair weather again. What was frozen stays so: bytes are missing. */
  readonly heal: Effect.Effect<void>
  /** The links that are there swallow everything from now on, without a sign to either side. */
  readonly freeze: (...directions: ReadonlyArray<Direction>) => Effect.Effect<void>
  /** Ends the links that are there with RST. */
  readonly reset: Effect.Effect<void>
  /** Ends the links that are there with FIN. */
  readonly end: Effect.Effect<void>
  /** Of the next piece on each link, half goes through; then comes an RST. */
  readonly cut: (direction: Direction) => Effect.Effect<void>
  readonly counters: () => Counters
}

interface Flow {
  readonly from: Net.Socket
  readonly to: Net.Socket
  frozen: boolean
  cut: boolean
  ended: boolean
  /** When the last piece is through the bottleneck. */
  freeAt: number
  readonly queue: Array<{ readonly at: number; readonly bytes: Buffer }>
  queued: number
  timer: NodeJS.Timeout | undefined
}

type Link = Readonly<Record<Direction, Flow>>

/** Bytes that may wait in the proxy before the sender has to. */
const most = 128 * 1024

const target = (url: Redacted.Redacted) => {
  const { hostname, port } = new URL(Redacted.value(url))
  return { host: hostname, port: Number(port) }
}

/** How many sockets of this process are open whose other end is this port. */
export const openSockets = (port: number): number =>
  (process as unknown as { readonly _getActiveHandles: () => ReadonlyArray<unknown> })
    ._getActiveHandles()
    .filter((handle) => handle instanceof Net.Socket && handle.remotePort === port).length

/** A proxy in front of the server of a URL. It listens on 127.0.0.1, or where `listen` says. */
export const make = Effect.fnUntraced(function*(
  server: Redacted.Redacted,
  listen: { readonly host: string } | { readonly path: string } = { host: "127.0.0.1" }
) {
  const links = new Set<Link>()
  /** Sockets of clients that have gone, or so they say: on a dead link nobody answers. */
  const abandoned = new Set<Net.Socket>()
  let weather = fair
  const counted = { accepted: 0, requestBytes: 0, answerBytes: 0, requests: 0 }

  const resetLink = (link: Link) => {
    links.delete(link)
    for (const { from, timer } of [link.requests, link.answers]) {
      clearTimeout(timer)
      // There is no RST before a connection is there, nor on a unix socket; and Node never closes one that is reset while it
      // is being ended.
      if (from.pending || from.connecting || from.writableEnded || from.remoteFamily === undefined) from.destroy()
      else from.resetAndDestroy()
    }
  }

  const pump = (flow: Flow) => {
    flow.timer = undefined
    for (let piece = flow.queue[0]; piece !== undefined; piece = flow.queue[0]) {
      const wait = piece.at - performance.now()
      if (wait > 0.5) {
        flow.timer = setTimeout(() => pump(flow), wait)
        return
      }
      flow.queue.shift()
      flow.queued -= piece.bytes.length
      flow.to.write(piece.bytes)
    }
    if (flow.from.isPaused()) flow.from.resume()
    if (flow.ended) flow.to.end()
  }

  const arrived = (link: Link, direction: Direction, chunk: Buffer) => {
    const flow = link[direction]
    if (direction === "requests") {
      counted.requests++
      counted.requestBytes += chunk.length
    } else counted.answerBytes += chunk.length
    if (flow.frozen) return
    if (flow.cut) {
      flow.to.write(chunk.subarray(0, Math.ceil(chunk.length / 2)), () => resetLink(link))
      flow.frozen = true
      return
    }
    const step = Math.max(1, Math.min(chunk.length, Math.floor(weather.bytesPerSecond / 20)))
    for (let i = 0; i < chunk.length; i += step) {
      const bytes = chunk.subarray(i, i + step)
      flow.freeAt = Math.max(flow.freeAt, performance.now()) + bytes.length / weather.bytesPerSecond * 1000
      // Never before what came earlier.
      const at = Math.max(flow.freeAt + weather.delay, flow.queue.at(-1)?.at ?? 0)
      flow.queue.push({ at, bytes })
      flow.queued += bytes.length
    }
    if (flow.timer === undefined) pump(flow)
    if (flow.queued > most || flow.to.writableLength > most) flow.from.pause()
  }

  const flowing = (from: Net.Socket, to: Net.Socket, frozen: boolean): Flow => ({
    from,
    to,
    frozen,
    cut: false,
    ended: false,
    freeAt: 0,
    queue: [],
    queued: 0,
    timer: undefined
  })

  // Half-open is what a dead link is: the side that has not heard of the end goes on.
  const listener = Net.createServer({ allowHalfOpen: true }, (client) => {
    counted.accepted++
    const upstream = Net.connect({ ...target(server), noDelay: true, allowHalfOpen: true })
    client.setNoDelay(true)
    const frozen = weather.newLinks === "swallow"
    const link: Link = { requests: flowing(client, upstream, frozen), answers: flowing(upstream, client, frozen) }
    links.add(link)
    for (const direction of ["requests", "answers"] as const) {
      const flow = link[direction]
      flow.from.on("data", (chunk) => arrived(link, direction, chunk))
      flow.to.on("drain", () => flow.queued <= most && flow.from.resume())
      flow.from.on("error", () => flow.frozen ? undefined : resetLink(link))
      flow.from.once("end", () => {
        flow.ended = true
        if (!flow.frozen && flow.timer === undefined) flow.to.end()
        if (direction === "requests" && (flow.frozen || link.answers.frozen)) left()
      })
    }
    // Frozen or not, what the client has left goes: its server finds that out some day, too.
    const left = () => {
      links.delete(link)
      clearTimeout(link.requests.timer)
      upstream.destroySoon()
      if (!client.destroyed) abandoned.add(client)
    }
    client.once("close", () => {
      left()
      abandoned.delete(client)
    })
  })

  let port = 0
  const open = Effect.callback<void, Error>((resume) => {
    listener.once("error", (error) => resume(Effect.fail(error)))
    // Below the ports of outgoing connections: while nobody listens, one that tries again could meet itself.
    const where = "path" in listen ? listen : { ...listen, port: port === 0 ? randomInt(15_000, 32_000) : port }
    listener.listen(where, () => {
      listener.removeAllListeners("error")
      const address = listener.address()
      if (address !== null && typeof address === "object") port = address.port
      resume(Effect.void)
    })
  })
  yield* Effect.acquireRelease(Effect.orDie(Effect.retry(open, { times: 20 })), () =>
    Effect.sync(() => {
      for (const link of links) resetLink(link)
      for (const client of abandoned) client.destroy()
      listener.close()
    }))

  const set = (changed: Partial<Weather>) =>
    Effect.suspend(() => {
      weather = { ...weather, ...changed }
      if (weather.newLinks === "refuse") return Effect.sync(() => void listener.close())
      return listener.listening ? Effect.void : Effect.orDie(open)
    })
  const each = (change: (link: Link) => void) =>
    Effect.sync(() => {
      for (const link of links) change(link)
    })

  return {
    port,
    through: (url) => {
      const detour = new URL(Redacted.value(url))
      detour.hostname = "127.0.0.1"
      detour.port = String(port)
      detour.searchParams.set("sslmode", "disable")
      return Redacted.make(detour.href)
    },
    set,
    heal: set(fair),
    freeze: (...directions) =>
      each((link) => {
        for (const direction of directions.length === 0 ? (["requests", "answers"] as const) : directions) {
          link[direction].frozen = true
        }
      }),
    reset: each(resetLink),
    end: each((link) => {
      link.requests.from.end()
      link.answers.from.end()
    }),
    cut: (direction) => each((link) => (link[direction].cut = true)),
    counters: () => ({ ...counted, open: links.size })
  } satisfies FaultProxy
})
