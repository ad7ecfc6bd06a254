/** Loaded before the program, makes it take its stderr for a terminal. */
process.stderr.isTTY = true
