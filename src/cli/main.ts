#!/usr/bin/env node
/**
 * The `horsies` command.
 *
 * It ends with 0 when what it was asked for is done, and when a worker has stopped as it was told to; with 2 when it was
 * asked wrongly (an option, a module, settings of the database), which will not pass by itself; with 1 for anything else; with
 * 130 when it was interrupted.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as CliOutput from "effect/cli/CliOutput"
import * as Command from "effect/cli/Command"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Runtime from "effect/Runtime"
import { createRequire } from "node:module"
import { refuse } from "./ending.ts"
import { verify } from "./verify.ts"
import * as Worker from "./worker.ts"

const { version } = createRequire(import.meta.url)("../../package.json") as { readonly version: string }

let afterInterruption = 130
const stopped = Effect.sync(() => {
  afterInterruption = 0
})

const horsies = Command.make("horsies").pipe(
  Command.withDescription("A PostgreSQL task broker"),
  Command.withSubcommands([Worker.command(stopped), verify])
)

horsies.pipe(
  Command.run({ version }),
  Effect.catchTag(
    "ShowHelp",
    ({ errors }) => errors.length === 0 ? Effect.void : refuse(errors.map(({ message }) => message).join("; "))
  ),
  // The help is for those who ask for it; who mistypes an option gets one line.
  Effect.provideService(CliOutput.Presenter, {
    present: (event) => event._tag === "InvalidInvocation" ? Effect.void : CliOutput.defaultPresenter.present(event)
  }),
  Effect.provideService(Logger.LogToStderr, true),
  Effect.provide(NodeServices.layer),
  NodeRuntime.runMain({
    // Whatever is still open then: what was asked for is done.
    teardown: (exit) => Runtime.defaultTeardown(exit, (code) => process.exit(code === 130 ? afterInterruption : code))
  })
)
