/**
 * A pool of connections: some that it keeps, more under load that are closed again when the load is gone, a bound on the
 * wait for one, and never a dead one in the hands of a caller.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Pool from "effect/Pool"
import type * as Scope from "effect/Scope"
import { ConnectionError, SqlError } from "effect/sql/SqlError"
import type { PoolSize, PostgresConfig } from "../PostgresConfig.ts"
import type { Host } from "../PostgresUrl.ts"
import { monotonic, realClock } from "./clock.ts"
import { ask, open, type OwnedConnection, type Purpose } from "./open.ts"
import * as PoolMetrics from "./PoolMetrics.ts"

/** Connections above the kept ones are closed when they have been idle for this long. */
const overflowIdle = Duration.seconds(15)

/** A connection that was used within this time is handed out without a ping. */
const skipWindow = 1000

/** A ping that takes longer counts as failed, in milliseconds; less when a dead peer is to be noticed sooner. */
const mostPing = 1000

/** A connection of the pool. */
export interface Member extends OwnedConnection {
  readonly openedAt: number
  /** When it was last used, or found alive. */
  provenAt: number
  used: boolean
  /** A transaction was begun on it and not ended. */
  inTransaction: boolean
  /** Nobody is to have it after its present user. */
  leaving: boolean
}

/** What the pool is doing. */
export interface Stats {
  readonly size: number
  readonly overflow: number
  readonly open: number
  readonly inUse: number
  readonly waiting: number
}

export interface ConnectionPool {
  /** A connection for the calling scope. Fails with a `ConnectionError` when there is none within `poolTimeout`. */
  readonly take: Effect.Effect<Member, SqlError, Scope.Scope>
  /** A connection that nobody has to wait for, if there is one; when it has to be opened, to this host before others. */
  readonly spare: (host: Host) => Effect.Effect<Member | undefined, SqlError, Scope.Scope>
  /** Ends idle connections that nobody has lately found alive. */
  readonly distrust: () => void
  /** Ends every connection, each when its user is done, so that all are opened anew. */
  readonly renew: () => void
  readonly stats: () => Stats
}

/** What kind of pool to make. */
export interface Options {
  /** What the pool is called in metrics. */
  readonly name: string
  readonly purpose: Purpose
  readonly size: PoolSize
  readonly prePing: boolean
  /** Told when a connection could not be opened. */
  readonly onFailure: (error: SqlError) => void
}

const sameHost = (a: Host, b: Host) => a.host === b.host && a.port === b.port

export const make = Effect.fnUntraced(function*(
  config: PostgresConfig["Service"],
  { name, onFailure, prePing, purpose, size }: Options
): Effect.fn.Return<ConnectionPool, never, Scope.Scope> {
  const members = new Set<Member>()
  const metrics = yield* PoolMetrics.make({ pool: name, application: config.applicationName }, size)
  const pingTimeout = Duration.millis(
    Math.min(mostPing, (Duration.toMillis(config.deadPeerBound) - patienceOf(config)) / 4)
  )
  const runFork = Effect.runForkWith(yield* Effect.context<never>())
  let waiting = 0
  /** The host to try before the others. */
  let preferred: Host | undefined
  const recycleAfter = Duration.toMillis(config.poolRecycle)

  const acquire = Effect.gen(function*() {
    const { endpoint } = purpose
    const first = endpoint.hosts.find((host) => preferred !== undefined && sameHost(host, preferred))
    const hosts = first === undefined
      ? endpoint.hosts
      : [first, ...endpoint.hosts.filter((host) => host !== first)] as const
    const opening = open(config, { ...purpose, endpoint: { ...endpoint, hosts: [...hosts] } })
    const openedAt = monotonic()
    const owned = yield* Effect.tapError(opening, (error) => Effect.sync(() => onFailure(error)))
    const member: Member = {
      ...owned,
      openedAt,
      provenAt: monotonic(),
      used: false,
      inTransaction: false,
      leaving: false
    }
    members.add(member)
    metrics.open(1)
    yield* Effect.addFinalizer(() => Effect.sync(() => members.delete(member)))
    owned.onClose(() => metrics.open(-1))
    // A checkout that waits for this very connection would wait for ever: tell the pool now.
    owned.onClose(() => runFork(Pool.invalidate(pool, member)))
    return member
  })

  const pool: Pool.Pool<Member, SqlError> = yield* Effect.provideService(
    Pool.makeWithTTL({
      acquire,
      min: size.size,
      max: size.size + size.overflow,
      timeToLive: overflowIdle,
      timeToLiveStrategy: "usage"
    }),
    Clock.Clock,
    realClock
  )

  const stats = (): Stats => {
    let open = 0
    let inUse = 0
    for (const member of members) {
      if (!member.isClosed()) open++
      if (member.used) inUse++
    }
    return { size: size.size, overflow: size.overflow, open, inUse, waiting }
  }

  const discard = (member: Member) => {
    member.destroy()
    return Pool.invalidate(pool, member)
  }

  const ping = (member: Member): Effect.Effect<boolean> =>
    ask(member, pingTimeout, "select 1").pipe(
      Effect.as(true),
      Effect.catch(() => Effect.succeed(false))
    )

  const distrust = () => {
    const now = monotonic()
    for (const member of members) if (!member.used && now - member.provenAt >= skipWindow) member.destroy()
  }

  const fit: Effect.Effect<Member, SqlError, Scope.Scope> = Effect.flatMap(Pool.get(pool), (member) => {
    const now = monotonic()
    if (member.isClosed() || now - member.openedAt >= recycleAfter) return Effect.andThen(discard(member), fit)
    if (!prePing || now - member.provenAt < skipWindow) return Effect.succeed(member)
    return Effect.flatMap(ping(member), (alive) => {
      if (alive) {
        member.provenAt = monotonic()
        return Effect.succeed(member)
      }
      // Where one link has died silently, others probably have: what is idle is opened anew rather than waited for.
      distrust()
      return Effect.andThen(discard(member), fit)
    })
  })

  const exhausted = Effect.suspend(() => {
    const { inUse, open, overflow, size } = stats()
    const message =
      `no connection within ${Duration.format(config.poolTimeout)}: the pool has ${size} connections and ` +
      `an overflow of ${overflow}; ${open} are open, ${inUse} in use, ${waiting} waiting`
    return Effect.fail(
      new SqlError({
        reason: new ConnectionError({ cause: new PoolTimeout(message), message, operation: "acquire" })
      })
    )
  })

  const waited = Effect.suspend(() => {
    waiting++
    metrics.waiting(1)
    return fit.pipe(
      Effect.timeoutOrElse({ duration: config.poolTimeout, orElse: () => exhausted }),
      Effect.ensuring(Effect.sync(() => {
        waiting--
        metrics.waiting(-1)
      })),
      Effect.provideService(Clock.Clock, realClock)
    )
  })

  const take: ConnectionPool["take"] = Effect.acquireRelease(
    Effect.map(waited, (member) => {
      member.used = true
      metrics.used(1)
      return member
    }),
    (member) =>
      Effect.sync(() => {
        member.used = false
        metrics.used(-1)
        member.provenAt = monotonic()
        // Its next user would find itself inside.
        if (member.inTransaction || member.leaving) member.destroy()
      }),
    { interruptible: true }
  )

  return {
    take,
    spare: (host) =>
      Effect.suspend(() => {
        const { inUse } = stats()
        if (inUse + waiting >= size.size + size.overflow) return Effect.undefined
        preferred = host
        return Effect.ensuring(take, Effect.sync(() => (preferred = undefined)))
      }),
    distrust,
    renew: () => {
      for (const member of members) {
        member.leaving = true
        if (!member.used) member.destroy()
      }
    },
    stats
  }
})

/** Milliseconds without a sign of life after which a connection is looked into. */
export const patienceOf = (config: PostgresConfig["Service"]): number =>
  config.keepalives?.idle ?? Duration.toMillis(config.deadPeerBound) / 2

/** Why a checkout failed: told apart from a server that cannot be reached. */
export class PoolTimeout extends Error {
  readonly code = "POOL_TIMEOUT"
}
