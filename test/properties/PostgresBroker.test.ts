import { brokerProperties } from "../../src/testing/properties.ts"
import { seeds } from "./seeds.ts"
import { layer, setBack } from "./standingClock.ts"

brokerProperties("PostgresBroker", layer, {
  excludeTestServices: true,
  seeds,
  sequences: 50,
  steps: [40, 60],
  before: setBack
})
