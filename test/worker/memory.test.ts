import * as MemoryBroker from "../../src/MemoryBroker.ts"
import { workerBehaviour } from "./behaviour.ts"

workerBehaviour("the broker in memory", MemoryBroker.layer)
