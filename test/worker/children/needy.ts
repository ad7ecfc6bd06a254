/** A module for child processes whose layers need what is not there without a database. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { SqlClient } from "effect/sql/SqlClient"

export const needy = Layer.effectDiscard(Effect.service(SqlClient))
