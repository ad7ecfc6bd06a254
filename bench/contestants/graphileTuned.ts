/**
 * graphile-worker with the batching of its own performance test: a local queue of 500, completions gathered without
 * delay, success not logged. Of its concurrencies, 10 is the fastest on two cores. It deletes what has ended.
 */
import * as Effect from "effect/Effect"
import { Logger, makeWorkerUtils, run, type WorkerUtils } from "graphile-worker"
import { batchSize, type Contestant, type Payload } from "../contestant.ts"

const concurrency = 10
const identifier = "noop"

const logger = new Logger(() => () => undefined)

export const preset = {
  worker: {
    concurrentJobs: concurrency,
    maxPoolSize: concurrency + 1,
    localQueue: { size: 500, refetchDelay: { durationMs: 10 } },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0
  }
}

const addJobs = (utils: WorkerUtils, payloads: ReadonlyArray<Payload>) =>
  utils.addJobs(payloads.map((payload) => ({ identifier, payload })))

export const contestant: Contestant = {
  sender: Effect.fnUntraced(function*(url) {
    const utils = yield* Effect.acquireRelease(
      Effect.tryPromise(() => makeWorkerUtils({ connectionString: url, logger })),
      (utils) => Effect.promise(async () => utils.release())
    )
    yield* Effect.tryPromise(() => utils.migrate())
    return Effect.fnUntraced(function*(payloads) {
      for (let from = 0; from < payloads.length; from += batchSize) {
        yield* Effect.tryPromise(() => addJobs(utils, payloads.slice(from, from + batchSize)))
      }
    })
  }),
  worker: (url, ran) =>
    Effect.asVoid(Effect.acquireRelease(
      Effect.tryPromise(() =>
        run({
          preset,
          connectionString: url,
          logger,
          noHandleSignals: true,
          crontab: "",
          taskList: { [identifier]: (payload) => ran((payload as Payload).n) }
        })
      ),
      (runner) => Effect.promise(() => runner.stop())
    ))
}
