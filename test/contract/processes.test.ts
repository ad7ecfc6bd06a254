import * as PostgresBroker from "../../src/PostgresBroker.ts"
import { processes } from "./processes.ts"

processes("two brokers over one database", PostgresBroker.layer)
