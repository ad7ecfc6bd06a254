/**
 * Tasks, their history, workers' heartbeats and the functions of the hot path.
 *
 * The hot statements live in PL/pgSQL functions because a function keeps its plan per session, prepared statements or
 * not, and carries the planner settings that make that plan certain: a plan made while the table was empty must still
 * ride the index when it holds a million rows. A pooled session can carry neither.
 */
import { wakeChannel } from "../channel.ts"
import { claim } from "./claiming.ts"
import { claimLimited } from "./claimingLimited.ts"
import { finishing } from "./finishing.ts"
import { history } from "./history.ts"
import { lanes } from "./lanes.ts"
import { operating } from "./operating.ts"
import { sending } from "./sending.ts"
import { tables, types } from "./tables.ts"

/** The statements of this migration, in order. */
export const statements = (schema: string): ReadonlyArray<string> => [
  ...types(schema),
  ...tables(schema),
  ...history(schema),
  lanes(schema),
  claim(schema),
  claimLimited(schema),
  ...finishing(schema),
  ...sending(schema, wakeChannel(schema)),
  ...operating(schema)
]
