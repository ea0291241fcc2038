/** The command line: its commands, and how every error becomes one sentence and an exit status. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command, CommanderError } from 'commander'
import { SoftMoEError } from '../core/errors.js'
import { packageFile } from '../core/package-file.js'
import { writeReport } from '../training/report.js'
import { ROUTER_NAMES } from '../routers/names.js'
import { applyConfigFile } from './config-file.js'
import { diagnose, formatDiagnosis, isHealthy } from './doctor.js'
import { runTraining } from './train.js'
import {
  evalCommand,
  predictCommand,
  trainCommand,
  type EvalCommandOptions,
  type PredictCommandOptions,
} from './training-options.js'
import { runEvaluation, runPrediction } from './use-model.js'
import { nonEmpty } from './values.js'

/** Where output goes; replaced in tests. */
export interface Terminal {
  readonly out: (text: string) => void
  readonly error: (text: string) => void
}

/** Exit status of a command that was given wrong options. */
export const USAGE_STATUS = 2
/** Exit status of a command that could not do its work. */
export const FAILURE_STATUS = 1
/** Exit status after an interrupt: 128 and the signal's number, as shells have it. */
export const INTERRUPTED_STATUS = 130

/** An unhealthy machine is a result, printed already; only the status is left to set. */
class FailedQuietly extends Error {}

const TRAIN_EXAMPLES = `
Examples:
  softmoe train
  softmoe train --router dense --out runs/dense
  softmoe train --data ~/cifar-10-batches-bin --model S/4 --experts 32 --epochs 30
  softmoe train --resume`

const EVAL_EXAMPLES = `
Examples:
  softmoe eval runs/latest
  softmoe eval runs/latest --few-shot 10
  softmoe eval runs/latest/checkpoints/step-00001240.safetensors --data ~/fashion-mnist --json`

const PREDICT_EXAMPLES = `
Example:
  softmoe predict runs/latest shoe.png bag.png --top 2`

const REPORT_EXAMPLES = `
Examples:
  softmoe report runs/latest
  softmoe report runs/soft runs/dense --out comparison.html`

/** Makes the program with all its commands. */
export function createProgram(terminal: Terminal): Command {
  const { version } = JSON.parse(readFileSync(packageFile('package.json'), 'utf8')) as { version: string }
  const program = new Command('softmoe')
    .description('Train and serve mixture-of-experts vision models.')
    .version(version)
    .showHelpAfterError('(softmoe --help lists everything)')
  const train = trainCommand(['soft', 'dense', ...ROUTER_NAMES.filter((name) => name !== 'soft')])
  train.addHelpText('after', TRAIN_EXAMPLES).action(() => runTraining(train, terminal))
  program.addCommand(train)
  program.addCommand(
    evalCommand()
      .addHelpText('after', EVAL_EXAMPLES)
      .action((run: string, options: EvalCommandOptions) => runEvaluation(run, options, terminal)),
  )
  program.addCommand(
    predictCommand()
      .addHelpText('after', PREDICT_EXAMPLES)
      .action((run: string, images: string[], options: PredictCommandOptions) =>
        runPrediction(run, images, options, terminal),
      ),
  )
  program
    .command('report')
    .description('draw training runs as one HTML page; several runs are compared')
    .argument('<runs...>', 'folders of runs')
    .option('--out <file>', 'the page (default: report.html in the first run)', nonEmpty)
    .addHelpText('after', REPORT_EXAMPLES)
    .action(async (runs: string[], { out }: { out?: string }) => {
      const path = out ?? join(runs[0], 'report.html')
      await writeReport(runs, path)
      terminal.out(`${path}\n`)
    })
  program
    .command('doctor')
    .description('say what this machine and this installation can do')
    .option('--json', 'print JSON', false)
    .action(async ({ json }: { json: boolean }) => {
      const diagnosis = await diagnose()
      terminal.out(`${json ? JSON.stringify(diagnosis, null, 2) : formatDiagnosis(diagnosis)}\n`)
      if (!isHealthy(diagnosis)) throw new FailedQuietly()
    })
  return program
}

/** Prepares a command and those below it: errors are thrown, output goes to the terminal, config files are applied. */
function prepare(command: Command, terminal: Terminal): void {
  command.exitOverride().configureOutput({ writeOut: terminal.out, writeErr: terminal.error })
  command.hook('preAction', (_, acting) => {
    if (command === acting) applyConfigFile(acting)
  })
  for (const child of command.commands) {
    child.copyInheritedSettings(command)
    prepare(child, terminal)
  }
}

/**
 * Runs a program.
 * @param args what follows the program's name on the command line
 * @returns the exit status: 0, {@link FAILURE_STATUS}, {@link USAGE_STATUS} or {@link INTERRUPTED_STATUS}
 */
export async function runProgram(
  program: Command,
  args: readonly string[],
  terminal: Terminal,
): Promise<number> {
  prepare(program, terminal)
  try {
    await program.parseAsync(args, { from: 'user' })
    return 0
  } catch (error) {
    if (error instanceof FailedQuietly) return FAILURE_STATUS
    // Commander has printed its message already.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : USAGE_STATUS
    return reportError(error, terminal)
  }
}

function reportError(error: unknown, terminal: Terminal): number {
  const isExpected = SoftMoEError.is(error)
  const message = error instanceof Error ? error.message : String(error)
  terminal.error(
    isExpected ? `softmoe: ${message} (${error.code})\n` : `softmoe: unexpected error: ${message}\n`,
  )
  if ((process.env.SOFTMOE_DEBUG ?? '') !== '' && error instanceof Error)
    terminal.error(`${error.stack ?? ''}\n`)
  else if (!isExpected) terminal.error('Set SOFTMOE_DEBUG=1 for details, and please report this.\n')
  if (!isExpected) return FAILURE_STATUS
  if (error.code === 'ERR_ABORTED') return INTERRUPTED_STATUS
  return error.code === 'ERR_INVALID_ARGUMENT' ? USAGE_STATUS : FAILURE_STATUS
}
