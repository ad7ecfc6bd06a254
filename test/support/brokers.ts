/** Brokers in memory that do some things otherwise, to show what a worker makes of it. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Broker, BrokerError, Refused, Unavailable } from "../../src/Broker.ts"
import * as MemoryBroker from "../../src/MemoryBroker.ts"

/** A broker in memory, with these members in the place of its own. */
export const memoryBut = (
  otherwise: (broker: Broker["Service"]) => Partial<Broker["Service"]>
): Layer.Layer<Broker> =>
  Layer.effect(Broker, Effect.map(Broker, (broker) => Broker.of({ ...broker, ...otherwise(broker) }))).pipe(
    Layer.provide(Layer.fresh(MemoryBroker.layer))
  )

export const unavailable = new BrokerError({ reason: new Unavailable({ message: "gone" }) })

export const refused = new BrokerError({ reason: new Refused({ message: "no" }) })
