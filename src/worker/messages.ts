/** Texts of log lines that are written in more than one place. */
export const notHandedBack = "claims not handed back; they are recovered later"
