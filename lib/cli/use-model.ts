/** `softmoe eval` and `softmoe predict`: what a trained model does. */
import { join } from 'node:path'
import { stat } from 'node:fs/promises'
import type { Evaluation } from '../training/evaluation.js'
import type { Terminal } from './program.js'
import type { EvalCommandOptions, PredictCommandOptions } from './training-options.js'

const percent = (share: number): string => `${(100 * share).toFixed(2)} %`

/**
 * Measures a trained model. In a run's folder the result replaces `evaluation.json`, if it is of the run's own data and
 * weights.
 */
export async function runEvaluation(
  path: string,
  options: EvalCommandOptions,
  terminal: Terminal,
): Promise<void> {
  const { evaluateRun } = await import('../training/evaluate-run.js')
  const { evaluation, fewShot } = await evaluateRun(path, options)
  if (options.data === undefined && options.weights === undefined && (await isFolder(path))) {
    const { writeEvaluation } = await import('../training/evaluation.js')
    await writeEvaluation(join(path, 'evaluation.json'), evaluation)
  }
  if (options.json) {
    const { samples, routers, ...numbers } = evaluation
    const shown = { ...numbers, ...(fewShot === null ? {} : { fewShot }) }
    terminal.out(
      `${JSON.stringify({ ...shown, samples: samples.length, routers: routers.length }, null, 2)}\n`,
    )
    return
  }
  terminal.out(`${evaluationLines(evaluation).join('\n')}\n`)
  if (fewShot !== null) {
    terminal.out(
      `${fewShot.shots}-shot accuracy ${percent(fewShot.accuracy)} (ridge regression on frozen features)\n`,
    )
  }
}

async function isFolder(path: string): Promise<boolean> {
  return (await stat(path)).isDirectory()
}

function evaluationLines(evaluation: Evaluation): string[] {
  const { dataset, images, accuracy, loss, millisecondsPerImage, classNames, confusion } = evaluation
  const widest = classNames.reduce((width, name) => Math.max(width, name.length), 0)
  return [
    `${dataset}: accuracy ${percent(accuracy)}, loss ${loss.toFixed(4)}, ${images} images, ` +
      `${millisecondsPerImage.toFixed(2)} ms an image`,
    ...classNames.map((name, label) => {
      const row = confusion[label]
      const count = row.reduce((sum, value) => sum + value, 0)
      return `  ${name.padEnd(widest)} ${count === 0 ? 'no images' : percent(row[label] / count)}`
    }),
  ]
}

/** Classifies PNG files. */
export async function runPrediction(
  path: string,
  images: readonly string[],
  { device, threads, weights, top, json }: PredictCommandOptions,
  terminal: Terminal,
): Promise<void> {
  const [{ loadModel }, { classifyFiles }, { setThreads }] = await Promise.all([
    import('../training/load-model.js'),
    import('../training/predict.js'),
    import('../core/device.js'),
  ])
  if (threads !== undefined) setThreads(threads)
  const trained = await loadModel(path, weights === undefined ? { device } : { device, weights })
  try {
    const all = await classifyFiles(trained, images)
    const results = all.map((classes, i) => ({ image: images[i], classes: classes.slice(0, top) }))
    if (json) {
      terminal.out(`${JSON.stringify(results, null, 2)}\n`)
      return
    }
    for (const { image, classes } of results) {
      const texts = classes.map(({ className, probability }) => `${className} ${percent(probability)}`)
      terminal.out(`${image}: ${texts.join(', ')}\n`)
    }
  } finally {
    trained.model.dispose()
  }
}
