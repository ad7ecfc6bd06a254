/** The lint rules, and with them the arrows between the parts of `src`: who may import whom is the table `arrows`. */
import { defineConfig, type OxlintOverride } from "oxlint"

interface Arrow {
  /** Modules and rooms (folders) of `src` that the row is about. */
  readonly of: ReadonlyArray<string>
  /** Whatever else in `src` they may import. Without it: everything but `never`. */
  readonly only?: ReadonlyArray<string>
  readonly never?: ReadonlyArray<string>
  /** May speak to a database through `effect/sql` and the PostgreSQL driver. */
  readonly sql?: true
  /** May open sockets. */
  readonly sockets?: true
  /** May make tests, for users to run. */
  readonly tests?: true
}

const settings = ["PostgresConfig.ts", "PostgresUrl.ts"]
const implementations = [
  "connection",
  "schema",
  "postgres",
  "memory",
  "embedded",
  "PostgresBroker.ts",
  "MemoryBroker.ts",
  "EmbeddedPostgres.ts"
]
const users = [
  "worker",
  "child",
  "monitor",
  "testing",
  "verify",
  "cli",
  "Worker.ts",
  "Scheduler.ts",
  "Monitor.ts",
  "Health.ts"
]

export const arrows: ReadonlyArray<Arrow> = [
  { of: ["Broker.ts", "Task.ts", "task"], never: [...implementations, ...users] },
  { of: settings, only: settings },
  { of: ["connection"], only: [...settings, "Broker.ts"], sql: true, sockets: true },
  { of: ["schema"], only: [...settings, "Broker.ts", "connection"], sql: true },
  { of: ["postgres"], only: [...settings, "Broker.ts", "connection", "schema"], sql: true },
  { of: ["memory"], only: ["Broker.ts", "Task.ts"] },
  { of: ["Worker.ts", "Scheduler.ts", "Monitor.ts", "worker"], never: implementations },
  // The program of a worker's child process: it builds the broker that such a process has.
  {
    of: ["child"],
    only: [...settings, "Broker.ts", "Task.ts", "task", "PostgresBroker.ts", "worker"]
  },
  { of: ["PostgresBroker.ts"], never: ["memory", ...users.filter((name) => name !== "Health.ts")], sql: true },
  { of: ["MemoryBroker.ts"], only: ["memory", "Broker.ts", "Task.ts"] },
  { of: ["monitor"], never: implementations, sql: true },
  { of: ["EmbeddedPostgres.ts"], only: ["embedded"], sockets: true },
  { of: ["embedded"], only: [], sockets: true },
  { of: ["testing"], tests: true },
  { of: ["testing/DatabaseClock.ts"], sql: true },
  // It breaks connections on purpose, and looks into the tables behind the broker's back.
  { of: ["verify"], sql: true, sockets: true },
  { of: ["Health.ts", "cli", "index.ts"] }
]

const isModule = (name: string) => name.endsWith(".ts")

/** Where the modules that a row is about are, and how they write a path to the top of `src`. */
const places = (of: string): ReadonlyArray<readonly [files: string, top: string]> =>
  isModule(of)
    ? [[`src/${of}`, "./"]]
    : [[`src/${of}/*.ts`, "../"], [`src/${of}/*/*.ts`, "../../"]]

const pathsTo = (top: string, names: ReadonlyArray<string>) =>
  names.map((name) => `${top}${name}${isModule(name) ? "" : "/**"}`)

const everywhere = [
  {
    regex: "^(effect|@effect/(platform-node|sql-pg))(/[a-z-]+)?$",
    message: "A barrel loads everything: import the one module, `import * as Effect from \"effect/Effect\"`."
  },
  { regex: "^effect-horsies(/|$)", message: "Inside src, import the module by its relative path." },
  {
    regex: "(^\\.|[^./])/\\.\\./|\\.\\./(.*/)?src/",
    message: "Inside src, import the module by its shortest relative path."
  },
  { regex: "^(node:)?timers(/|$)", message: "Time belongs to Effect: Effect.sleep, Schedule, Clock." }
]

const restrictions = (arrow: Arrow, of: string) => ([files, top]: readonly [string, string]): OxlintOverride => {
  const patterns: Array<{ regex: string; message: string } | { group: Array<string>; message: string }> = [
    ...everywhere
  ]
  if (arrow.sql !== true) {
    patterns.push({
      regex: "^(effect/sql|@effect/sql-pg)(/|$)",
      message:
        "SQL exists only in connection/, schema/, postgres/, PostgresBroker.ts, monitor/, verify/ and the clock of a test database."
    })
  }
  if (arrow.tests !== true) {
    patterns.push({ regex: "^(@effect/)?vitest(/|$)", message: "Only testing/ knows the test runner." })
  }
  if (arrow.sockets !== true) {
    patterns.push({
      regex: "^(node:)?(net|tls|dgram)$",
      message: "Sockets exist only in connection/, and where servers are started or broken."
    })
  }
  if (arrow.only !== undefined) {
    patterns.push({
      group: [`${top}**`, ...pathsTo(top, arrow.only).map((path) => `!${path}`)],
      message: `${of} may know only ${arrow.only.join(", ") || "itself"}: see the arrows in oxlint.config.ts.`
    })
  }
  if (arrow.never !== undefined) {
    patterns.push({
      group: pathsTo(top, arrow.never.filter((name) => name !== of)),
      message: `${of} must not know this: see the arrows in oxlint.config.ts.`
    })
  }
  return {
    files: [files],
    rules: { "no-restricted-imports": ["error", { patterns }] }
  }
}

const timers = ["setTimeout", "setInterval", "setImmediate", "clearTimeout", "clearInterval", "clearImmediate"]

export default defineConfig({
  plugins: ["eslint", "typescript", "import", "node", "unicorn", "oxc", "vitest"],
  categories: { correctness: "error", suspicious: "error", perf: "error" },
  ignorePatterns: ["dist", "**/node_modules"],
  rules: {
    "import/no-cycle": "error",
    "import/extensions": ["error", "always", { ignorePackages: true }],
    "typescript/consistent-type-imports": ["error", { disallowTypeAnnotations: true }],
    "unicorn/prefer-node-protocol": "error",
    // `_tag` is how Effect names the variant of a union.
    "no-underscore-dangle": "off",
    // A generator names what it yields after the thing itself, whatever the surrounding scope calls its own.
    "no-shadow": "off",
    // Shared arrays are ReadonlyArray, which the compiler does not let anyone sort.
    "unicorn/no-array-sort": "off",
    // The helper next to its only use reads better than at the top of the file.
    "unicorn/consistent-function-scoping": "off"
  },
  overrides: [
    {
      files: ["src/**/*.ts"],
      rules: {
        "typescript/no-explicit-any": "error",
        "no-console": "error",
        "node/no-process-env": "error",
        "no-restricted-globals": [
          "error",
          ...timers.map((name) => ({ name, message: "Time belongs to Effect: Effect.sleep, Schedule, Clock." }))
        ],
        "no-restricted-properties": [
          "error",
          { object: "Date", property: "now", message: "Use Clock, or the database's clock." },
          { object: "Math", property: "random", message: "Use Random." },
          ...["globalThis", "global"].flatMap((object) => timers.map((property) => ({ object, property })))
        ],
        "no-restricted-imports": ["error", { patterns: everywhere }]
      }
    },
    ...arrows.flatMap((arrow) => arrow.of.flatMap((of) => places(of).map(restrictions(arrow, of))))
  ]
})
