/**
 * Tasks, their history, workers' heartbeats and the functions of the hot path.
 *
 * The hot statements live in PL/pgSQL functions because a function keeps its plan per session, prepared statements or
 * not, and carries the planner settings that make that plan certain: a plan made while the table was empty must still
 * ride the index when it holds a million rows. A pooled session can carry neither.
 */
import { wakeChannel } from "../channel.ts"
import { claiming } from "./claiming.ts"
import { finishing } from "./finishing.ts"
import { history } from "./history.ts"
import { operating } from "./operating.ts"
import { sending } from "./sending.ts"
import { tables, types } from "./tables.ts"

/** The statements of this migration, in order. */
export const statements = (schema: string): ReadonlyArray<string> => [
  ...types(schema),
  ...tables(schema),
  ...history(schema),
  ...claiming(schema),
  ...finishing(schema),
  ...sending(schema, wakeChannel(schema)),
  ...operating(schema)
]
