import * as TestBroker from "../support/TestBroker.ts"
import { workerBehaviour } from "./behaviour.ts"

workerBehaviour("PostgreSQL", TestBroker.layer)
