/** The channel on which workers are woken. Channels are shared by all schemas of a database. */
export const wakeChannel = (schema: string) => `horsies_wake_${schema}`.slice(0, 63)
