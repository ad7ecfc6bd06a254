/** Milliseconds by the system's monotonic clock, which the processes of one machine share. */
export const now = (): number => Number(process.hrtime.bigint()) / 1e6
