/** What every broker must do: the contract in the head of Broker.ts, as tests. */
import { layer } from "@effect/vitest"
import type * as Layer from "effect/Layer"
import type { Broker } from "../../src/Broker.ts"
import { claiming } from "./claiming.ts"
import { delays } from "./delays.ts"
import { finishing } from "./finishing.ts"
import type { Harness } from "./Harness.ts"
import { liveness } from "./liveness.ts"
import { outcomes } from "./outcomes.ts"
import { sending } from "./sending.ts"
import { waking } from "./waking.ts"

/** Runs the suite. A broker that lives in real time needs `excludeTestServices`. */
export const brokerContract = <E>(
  name: string,
  broker: Layer.Layer<Broker | Harness, E>,
  options: { readonly excludeTestServices: boolean }
) =>
  layer(broker, options)(name, (it) => {
    sending(it)
    claiming(it)
    delays(it)
    finishing(it)
    outcomes(it)
    liveness(it)
    waking(it)
  })
