/** The checker, on evidence that is made up: each rule that is broken is found, and nothing else. */
import { assert, describe, it } from "@effect/vitest"
import { check, type Rule } from "../../src/verify/checker.ts"
import type { Evidence, Happened, Outcome, PastAttempt, Run, Send } from "../../src/verify/evidence.ts"
import * as Report from "../../src/verify/report.ts"

const send = (id: string, more: Partial<Send> = {}): Send => ({
  id,
  at: 1000,
  n: 1,
  kind: "plain",
  millis: 0,
  failures: 0,
  key: `key of ${id}`,
  delay: 0,
  acknowledgedAt: 1010,
  stored: id,
  refused: undefined,
  ...more
})

const run = (task: string, more: Partial<Run> = {}): Run => ({
  task,
  fence: 1,
  at: 1020,
  pid: 10,
  parent: 1,
  worker: 0,
  end: { at: 1030, how: "done" },
  ...more
})

const outcome = (task: string, more: Partial<Outcome> = {}): Outcome => ({
  task,
  state: "COMPLETED",
  fence: 1,
  attempts: 1,
  failure: undefined,
  by: { fence: 1, pid: 10 },
  past: [],
  startedAt: null,
  endedAt: 1040,
  ...more
})

/** An attempt whose worker was lost. */
const lost: PastAttempt = { outcome: "Lost", startedAt: null, endedAt: 4025 }

const fault = (more: Partial<Happened>): Happened => ({
  what: "kill",
  detail: "worker 0",
  at: 1025,
  until: 1025,
  worker: 0,
  pids: [1, 10],
  ...more
})

const nothing: Evidence = {
  seed: 1,
  workers: 2,
  sends: [],
  runs: [],
  outcomes: [],
  live: [],
  effects: [],
  cancelled: [],
  faults: [],
  missing: [],
  crashed: [],
  hung: [],
  probes: [],
  bounds: { lease: 3000, heartbeatInterval: 1000, recovery: 5000, start: 2500 }
}

/** A task that was sent, ran once and was recorded, and whatever else there is. */
const evidence = (more: Partial<Evidence> = {}): Evidence => ({
  ...nothing,
  sends: [send("a")],
  runs: [run("a")],
  outcomes: [outcome("a")],
  ...more
})

const rules = (evidence: Evidence): ReadonlyArray<Rule> => check(evidence).violations.map(({ rule }) => rule)

/** Run under fence 1 by a process that is gone, then under fence 2 by another. */
const runTwice = (at: number): Pick<Evidence, "runs" | "outcomes"> => ({
  runs: [
    run("a", { end: undefined }),
    run("a", { fence: 2, at, pid: 20, parent: 2, worker: 1, end: { at: at + 5, how: "done" } })
  ],
  outcomes: [outcome("a", { fence: 2, by: { fence: 2, pid: 20 } })]
})

describe("the checker finds nothing wrong with", () => {
  it("a task that was sent, ran and was recorded", () => {
    const report = check(evidence())
    assert.deepStrictEqual(report.violations, [])
    assert.strictEqual(report.sent, 1)
    assert.strictEqual(report.acknowledged, 1)
    assert.strictEqual(report.outcomes, 1)
    assert.strictEqual(report.extraRuns, 0)
  })

  it("a send without an answer whose task is not there", () => {
    const report = check(evidence({ sends: [send("a"), send("b", { acknowledgedAt: undefined, stored: undefined })] }))
    assert.deepStrictEqual(report.violations, [])
    assert.strictEqual(report.acknowledged, 1)
  })

  it("a second run after the first one's process was killed, and counts it", () => {
    const report = check(evidence({ ...runTwice(4000), faults: [fault({})] }))
    assert.deepStrictEqual(report.violations, [])
    assert.strictEqual(report.extraRuns, 1)
    assert.strictEqual(report.kills, 1)
    assert.strictEqual(report.maxRecoverySeconds, 2.975)
  })

  it("several sends under one idempotency key that are one task", () => {
    const once = { kind: "once", key: "k", stored: "a" } as const
    assert.deepStrictEqual(rules(evidence({ sends: [send("a", once), send("b", once)] })), [])
  })

  it("a failing task that has used up its attempts, and one that has cost three workers", () => {
    assert.deepStrictEqual(
      rules(evidence({
        sends: [send("a", { kind: "retried", failures: 4 })],
        outcomes: [outcome("a", { state: "FAILED", failure: "Error" })]
      })),
      []
    )
    assert.deepStrictEqual(
      rules(evidence({
        outcomes: [outcome("a", { state: "FAILED", failure: "Lost", by: undefined, past: [lost, lost] })]
      })),
      []
    )
  })

  it("a transactional task with its one row", () => {
    assert.deepStrictEqual(
      rules(evidence({ sends: [send("a", { kind: "transactional" })], effects: [{ task: "a", fence: 1 }] })),
      []
    )
  })
})

describe("the checker finds", () => {
  const found: ReadonlyArray<readonly [what: string, rule: Rule, evidence: Evidence]> = [
    ["an acknowledged task of which nothing is left", "lost", evidence({ runs: [], outcomes: [] })],
    [
      "an acknowledged task that has not ended",
      "lost",
      evidence({ runs: [], outcomes: [], live: [{ task: "a", state: "CLAIMED", fence: 1 }] })
    ],
    ["two outcomes of one task", "recordedTwice", evidence({ outcomes: [outcome("a"), outcome("a")] })],
    [
      "a task that has ended and still waits",
      "recordedTwice",
      evidence({ live: [{ task: "a", state: "PENDING", fence: 1 }] })
    ],
    [
      "two tasks under one idempotency key",
      "recordedTwice",
      evidence({
        sends: [send("a", { kind: "once", key: "k" }), send("b", { kind: "once", key: "k" })],
        runs: [run("a"), run("b")],
        outcomes: [outcome("a"), outcome("b")]
      })
    ],
    [
      "an outcome recorded under the fence of another run",
      "staleFinish",
      evidence({ ...runTwice(4000), outcomes: [outcome("a", { fence: 2, by: { fence: 1, pid: 10 } })] })
    ],
    [
      "an outcome recorded although a later run had begun",
      "staleFinish",
      evidence({ ...runTwice(4000), outcomes: [outcome("a")] })
    ],
    [
      "an outcome recorded by a process that did not run the task",
      "staleFinish",
      evidence({ outcomes: [outcome("a", { by: { fence: 1, pid: 11 } })] })
    ],
    ["an outcome without a run", "staleFinish", evidence({ runs: [] })],
    ["two runs under one fence", "fenceTwice", evidence({ runs: [run("a"), run("a", { at: 1021 })] })],
    [
      "a completed transactional task without its row",
      "effectMissing",
      evidence({ sends: [send("a", { kind: "transactional" })] })
    ],
    [
      "a completed transactional task with two rows",
      "effectDoubled",
      evidence({
        sends: [send("a", { kind: "transactional" })],
        effects: [{ task: "a", fence: 1 }, { task: "a", fence: 2 }]
      })
    ],
    [
      "a row that another run has written than the one that is recorded",
      "effectDoubled",
      evidence({
        sends: [send("a", { kind: "transactional" })],
        runs: [run("a", { end: undefined }), run("a", { fence: 2, at: 1030 })],
        outcomes: [outcome("a", { fence: 2, by: { fence: 2, pid: 10 } })],
        effects: [{ task: "a", fence: 1 }, { task: "a", fence: 2 }]
      })
    ],
    [
      "a completed transactional task whose row is that of another run",
      "effectMissing",
      evidence({
        sends: [send("a", { kind: "transactional" })],
        outcomes: [outcome("a")],
        effects: [{ task: "a", fence: 2 }]
      })
    ],
    [
      "a row of a transactional task that has failed",
      "effectDoubled",
      evidence({
        sends: [send("a", { kind: "transactional" })],
        outcomes: [outcome("a", { state: "FAILED", failure: "Lost", by: undefined, past: [lost, lost] })],
        effects: [{ task: "a", fence: 1 }]
      })
    ],
    ["a cancelled task that was run to its end", "wrongOutcome", evidence({ cancelled: ["a"] })],
    [
      "a task that has failed without a reason",
      "wrongOutcome",
      evidence({ outcomes: [outcome("a", { state: "FAILED", failure: "Error" })] })
    ],
    [
      "a send that was refused",
      "refused",
      evidence({ sends: [send("a"), send("b", { acknowledgedAt: undefined, stored: undefined, refused: "no" })] })
    ],
    [
      "a task that has failed as lost before it had cost as many workers as it may",
      "wrongOutcome",
      evidence({ outcomes: [outcome("a", { state: "FAILED", failure: "Lost", by: undefined, past: [lost] })] })
    ],
    ["a run in which nothing was sent", "nothingSent", nothing],
    ["a fault that was planned and never happened", "faultMissing", evidence({ missing: ["kill child"] })],
    ["a process that has ended by itself", "crashed", evidence({ crashed: ["worker 1"] })],
    ["a process that does not end", "hung", evidence({ hung: ["worker 1"] })],
    [
      "faults of which no recovery was measured",
      "nothingRecovered",
      evidence({ faults: [fault({ at: 500, until: 500 })] })
    ],
    ["a recovery that took too long", "lateRecovery", evidence({ ...runTwice(6100), faults: [fault({})] })],
    [
      "a start that took too long",
      "lateStart",
      evidence({ runs: [run("a", { at: 4000 })], probes: [{ task: "a", worker: 0, at: 1010 }] })
    ],
    [
      "a task for an idle worker that never began",
      "lateStart",
      evidence({
        outcomes: [outcome("a", { state: "CANCELLED", by: undefined })],
        sends: [send("a", { kind: "cancelled" })],
        runs: [],
        probes: [{ task: "a", worker: 0, at: 1010 }]
      })
    ]
  ]

  it.each(found)("%s", (_, rule, evidence) => {
    assert.deepStrictEqual(rules(evidence), [rule])
  })
})

describe("a recovery", () => {
  const cut = (worker: number, at: number) =>
    fault({ what: "cut", detail: "reset", at, until: at, worker, pids: undefined })

  it("counts from when the server was back", () => {
    const faults = [
      fault({}),
      fault({ what: "restart", detail: "fast", at: 2000, until: 5000, worker: undefined, pids: undefined })
    ]
    assert.strictEqual(check(evidence({ ...runTwice(7000), faults })).maxRecoverySeconds, 2)
  })

  it("counts from when one worker could look after the others undisturbed", () => {
    const faults = [fault({ until: 3000 }), cut(1, 2500)]
    assert.strictEqual(check(evidence({ ...runTwice(7000), faults })).maxRecoverySeconds, 4.5)
  })

  it("is not made shorter by what disturbs all workers at its end", () => {
    const faults = [fault({ until: 3000 }), cut(0, 6400), cut(1, 6500)]
    assert.strictEqual(check(evidence({ ...runTwice(7000), faults })).maxRecoverySeconds, 5.475)
  })

  it("counts from when a process goes on that stood still when it was given the task", () => {
    const { outcomes, runs } = runTwice(7000)
    const recovered = (until: number) => {
      const stall = fault({ what: "stall", detail: "child", until, worker: undefined, pids: [runs[1]!.pid] })
      return check(evidence({ runs, outcomes, faults: [fault({}), stall] })).maxRecoverySeconds
    }
    assert.strictEqual(recovered(6900), 0.1)
    assert.strictEqual(recovered(5000), 5.975)
  })

  it("of a frozen transaction counts from when its process goes on", () => {
    const faults = [fault({ what: "freeze", detail: "worker 0", until: 6000 })]
    const runs = runTwice(7000)
    assert.strictEqual(check(evidence({ ...runs, faults })).maxRecoverySeconds, 5.975)
    const sends = [send("a", { kind: "transactional" })]
    assert.strictEqual(check(evidence({ ...runs, faults, sends })).maxRecoverySeconds, 1)
    const dead = fault({ what: "cut", detail: "1 connection dead", at: 1010, until: 5000, worker: 0, pids: undefined })
    assert.strictEqual(check(evidence({ ...runs, faults: [fault({}), dead], sends })).maxRecoverySeconds, 2)
  })

  it("counts to the attempt that was recorded, when its handler did not come to begin", () => {
    const { outcomes, runs } = runTwice(9000)
    const recovered = (second: PastAttempt) => {
      const past = [lost, second]
      const found = [{ ...outcomes[0]!, past }]
      return check(evidence({ runs, outcomes: found, faults: [fault({})] })).maxRecoverySeconds
    }
    assert.strictEqual(recovered({ outcome: "LeaseLost", startedAt: 4525, endedAt: 5000 }), 3.5)
    assert.strictEqual(recovered({ outcome: "Lost", startedAt: null, endedAt: 5000 }), 3)
    assert.strictEqual(recovered({ outcome: "Retry", startedAt: 9001, endedAt: 9500 }), 7.975)
  })

  it("counts to the start of the last attempt, whose handler may have waited for a connection before it began", () => {
    const { outcomes, runs } = runTwice(9000)
    const recovered = (past: Outcome["past"], startedAt: number) => {
      const found = [{ ...outcomes[0]!, past, startedAt, endedAt: 9500 }]
      return check(evidence({ runs, outcomes: found, faults: [fault({})] })).maxRecoverySeconds
    }
    assert.strictEqual(recovered([lost], 4525), 3.5)
    assert.strictEqual(recovered([lost], 9001), 7.975)
    assert.strictEqual(recovered([], 8025), 7)
  })

  it("counts where a handler had come to its end, and that could not be recorded", () => {
    const { outcomes, runs } = runTwice(5035)
    const recovered = (first: Run["end"], past: Outcome["past"]) => {
      const [outcome] = outcomes
      const found = {
        runs: [run("a", { end: first }), ...runs.slice(1)],
        outcomes: [{ ...outcome!, past, startedAt: 5035, endedAt: 5045 }],
        faults: [fault({ at: 1035, until: 1035 })]
      }
      const { maxRecoverySeconds, recoveries } = check(evidence(found))
      return [recoveries, maxRecoverySeconds]
    }
    assert.deepStrictEqual(recovered({ at: 1030, how: "done" }, []), [0, 0])
    assert.deepStrictEqual(recovered({ at: 1030, how: "done" }, [lost]), [1, 4])
    assert.deepStrictEqual(recovered({ at: 1030, how: "failed" }, [lost]), [1, 4])
    // Its transaction could not be committed: its worker itself has let it wait again.
    const before = { outcome: "LeaseLost", startedAt: 1000, endedAt: 1010 }
    assert.deepStrictEqual(recovered({ at: 1030, how: "failed" }, [before]), [0, 0])
    const failed = { outcome: "Error", startedAt: 1020, endedAt: 1040 }
    assert.deepStrictEqual(recovered({ at: 1030, how: "failed" }, [failed]), [0, 0])
  })
})

describe("the report", () => {
  const broken = evidence({ ...runTwice(6100), outcomes: [outcome("a")], faults: [fault({})] })

  it("tells the history of a task whose rule is broken", () => {
    const lines = Report.text(check(broken), broken, 0).split("\n")
    const history = lines.slice(lines.indexOf("task a")).map((line) => line.trim())
    assert.deepStrictEqual(history, [
      "task a",
      "staleFinish: recorded under fence 1 after a run had begun under fence 2",
      "lateRecovery: ran again 5.075 s after: kill worker 0",
      "1.000 s  sent as a (plain, key of a)",
      "1.010 s  send of a acknowledged",
      "1.020 s  run begins under fence 1 in process 10 of worker 0",
      "1.025 s  fault: kill worker 0",
      "1.040 s  COMPLETED recorded under fence 1 after 1 attempts, by the run with fence 1 in process 10",
      "6.100 s  run begins under fence 2 in process 20 of worker 1",
      "6.105 s  run under fence 2 ends: done"
    ])
  })

  it("is one line for programs", () => {
    assert.deepStrictEqual(Object.keys(JSON.parse(Report.json(check(broken), broken))), [
      "sent",
      "acknowledged",
      "outcomes",
      "lost",
      "recordedTwice",
      "staleFinishes",
      "effectsMissing",
      "effectsDoubled",
      "extraRuns",
      "kills",
      "freezes",
      "restarts",
      "cuts",
      "maxRecoverySeconds",
      "seed"
    ])
  })
})
