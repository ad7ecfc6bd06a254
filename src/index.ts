/** A PostgreSQL task broker for Effect. One namespace per module; each can also be imported alone. */
export * as Broker from "./Broker.ts"
export * as EmbeddedPostgres from "./EmbeddedPostgres.ts"
export * as Health from "./Health.ts"
export * as MemoryBroker from "./MemoryBroker.ts"
export * as PostgresBroker from "./PostgresBroker.ts"
export * as PostgresConfig from "./PostgresConfig.ts"
export * as Task from "./Task.ts"
export * as Worker from "./Worker.ts"
