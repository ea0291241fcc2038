/** `softmoe train`: the options as the library takes them, progress, and what an interrupt does. */
import type { Command } from 'commander'
import { SoftMoEError } from '../core/errors.js'
import type { TrainOptions } from '../training/configuration.js'
import type { RunStart, TrainHooks, TrainResult } from '../training/fit.js'
import type { Terminal } from './program.js'
import { createProgress, duration, type Progress } from './progress.js'
import { trainOptions, type TrainCommandOptions } from './training-options.js'

/** Exit status after an interrupt: 128 and the signal's number, as shells have it. */
const INTERRUPTED_STATUS = 130
const INTERRUPTS = ['SIGINT', 'SIGTERM'] as const

/** The options that were given: on the command line or in a config file, but not by default. */
function given(command: Command): Partial<TrainCommandOptions> {
  const options = trainOptions(command)
  return Object.fromEntries(
    Object.entries(options).filter(([name]) => command.getOptionValueSource(name) !== 'default'),
  )
}

function libraryOptions(command: Command, signal: AbortSignal): TrainOptions {
  const { experts, crop, flip, randAugment, router, ...others } = given(command)
  const all = trainOptions(command)
  const augments = [crop, flip, randAugment].some((value) => value !== undefined)
  return {
    ...others,
    router: router as TrainOptions['router'],
    numExperts: experts,
    signal,
    ...(augments
      ? {
          augment: {
            cropPadding: all.crop,
            flip: all.flip,
            ...(all.randAugment ? { randAugment: {} } : {}),
          },
        }
      : {}),
  }
}

/** Calls `abort` at the first interrupt and ends the process at the second. @returns undoes it */
function onInterrupt(abort: () => void): () => void {
  let isFirst = true
  const handler = (): void => {
    if (!isFirst) process.exit(INTERRUPTED_STATUS)
    isFirst = false
    abort()
  }
  for (const name of INTERRUPTS) process.on(name, handler)
  return () => {
    for (const name of INTERRUPTS) process.off(name, handler)
  }
}

function introduction({ out, configuration, device, parameters, testImages, steps }: RunStart): string {
  const { dataset, trainImages, model, batchSize, precision, seed } = configuration
  const epochs = (configuration.steps * batchSize) / trainImages
  const { moe, width, depth, patchSize } = model
  const router = moe === undefined ? 'dense' : typeof moe.router === 'string' ? moe.router : moe.router.name
  const experts = moe === undefined ? '' : `, ${moe.numExperts} experts`
  return [
    `data: ${dataset}, ${trainImages} images to train, ${testImages} to test`,
    `model: ${router}${experts}, width ${width}, depth ${depth}, patch ${patchSize}, ` +
      `${(parameters / 1e6).toFixed(2)} million parameters`,
    `run: ${configuration.steps} steps of ${batchSize} images (${epochs.toPrecision(3)} epochs), ` +
      `${precision} on ${device.toString()}, seed ${seed}` +
      (steps > 0 ? `, going on after step ${steps}` : ''),
    `folder: ${out}`,
  ].join('\n')
}

/** Trains as a command line says. @throws (rejects) what `train` throws; `ERR_ABORTED` after an interrupt */
export async function runTraining(command: Command, terminal: Terminal): Promise<void> {
  // Imported here: commands that need no addon must work without it.
  const { train } = await import('../training/fit.js')
  const controller = new AbortController()
  let progress: Progress | undefined
  const stopListening = onInterrupt(() => {
    controller.abort()
    const text = 'finishing this step and writing a checkpoint; interrupt again to stop at once'
    if (progress !== undefined && hasTerminal()) progress.message(text)
    else terminal.error(`${text}\n`)
  })
  const hooks: TrainHooks = {
    onStart: (start) => {
      terminal.out(`${introduction(start)}\n`)
      progress = createProgress(
        { steps: start.configuration.steps, start: start.steps, batchSize: start.configuration.batchSize },
        (line) => terminal.out(`${line}\n`),
        hasTerminal(),
      )
    },
    onStep: (record) => progress?.step(record),
    onEvaluation: (record) => progress?.evaluation(record),
  }
  let result: TrainResult
  const startedAt = performance.now()
  try {
    result = await train(libraryOptions(command, controller.signal), hooks)
  } finally {
    progress?.stop()
    stopListening()
  }
  const { complete, steps, out, checkpoint, evaluation, report, model } = result
  model.dispose()
  if (!complete) {
    throw new SoftMoEError(
      'ERR_ABORTED',
      `interrupted after step ${steps}; the checkpoint is ${checkpoint}. Go on with: ` +
        `softmoe train --resume --out ${quoted(out)}`,
    )
  }
  const seconds = (performance.now() - startedAt) / 1000
  terminal.out(
    `test accuracy ${(100 * (evaluation?.accuracy ?? Number.NaN)).toFixed(2)} % after ${steps} steps, ${duration(seconds)}\n` +
      `report: ${report ?? ''}\n`,
  )
}

/** Whether a bar can be drawn. */
function hasTerminal(): boolean {
  return process.stderr.isTTY && process.stdout.isTTY
}

function quoted(path: string): string {
  return /^[\w./-]+$/.test(path) ? path : `'${path.replaceAll("'", String.raw`'\''`)}'`
}
