/** Where the random sequences come from: one seed that stays, and one of each run; or the one that TEST_SEED names. */
import { randomInt } from "node:crypto"

const given = process.env["TEST_SEED"]

export const seeds: ReadonlyArray<string> = given === undefined || given === ""
  ? ["horsies", String(randomInt(2 ** 32))]
  : [given]

console.info(`seeds of the random sequences: ${seeds.join(", ")} (TEST_SEED names another)`)
