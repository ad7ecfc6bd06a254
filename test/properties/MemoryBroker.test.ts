import { brokerProperties } from "../../src/testing/properties.ts"
import { layer, removeOld } from "./memory.ts"
import { seeds } from "./seeds.ts"

brokerProperties("MemoryBroker", layer, { excludeTestServices: false, seeds, sequences: 500, before: removeOld })
