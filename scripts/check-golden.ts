/**
 * Compares models, layers and routers with golden files made by the papers' own code in float64: outputs, losses and
 * every gradient; indices must be equal.
 *
 *     npm run check:golden -- [--device cpu|cuda] [--tolerance 2e-5] FILE...
 *
 * Without files it compares all of test/golden.
 * Prints the worst error of each file, relative to the largest element of its tensor, and exits with 1 if one is beyond
 * the tolerance. test/support/golden-{model,layer}.ts say what a file holds.
 */
import { Command } from 'commander'
import type { DeviceKind } from '../lib/core/device.js'
import { SoftMoEError } from '../lib/core/errors.js'
import { goldenPath, MODEL_GOLDENS } from '../test/support/golden.js'
import { deviationsOfGoldenLayer, GOLDEN_LAYERS } from '../test/support/golden-layer.js'
import { deviationsOfGoldenModel } from '../test/support/golden-model.js'

function allFiles(): string[] {
  return [
    ...GOLDEN_LAYERS.map((name) => goldenPath(`layers/${name}.json`)),
    ...MODEL_GOLDENS.map((name) => goldenPath(`models/${name}.safetensors`)),
  ]
}

async function main(): Promise<void> {
  const program = new Command('check:golden')
    .description(
      "Compares models, layers and routers with golden files of the papers' own code: outputs, losses, gradients.",
    )
    .argument(
      '[files...]',
      'golden files: models as safetensors, layers and routers as JSON; default all of test/golden',
    )
    .option('--device <kind>', 'auto, cpu or cuda', 'cpu')
    .option('--tolerance <error>', 'largest error relative to the largest element of a tensor', '2e-5')
    .option('--all', 'print every tensor, not only the worst')
    .parse()
  const options = program.opts<{ device: DeviceKind; tolerance: string; all?: boolean }>()
  const tolerance = Number(options.tolerance)
  if (!(tolerance > 0)) program.error(`--tolerance is '${options.tolerance}'; wanted a number over 0`)
  let beyond = 0
  const files = program.args.length > 0 ? program.args : allFiles()
  for (const path of files) {
    const deviationsOf = path.endsWith('.json') ? deviationsOfGoldenLayer : deviationsOfGoldenModel
    const deviations = await deviationsOf(path, options.device)
    const sorted = deviations.toSorted((a, b) => b.error - a.error)
    const [worst] = sorted
    if (worst === undefined) continue
    const passed = worst.error <= tolerance
    if (!passed) beyond += 1
    console.log(
      `${passed ? 'ok  ' : 'FAIL'} ${path}: worst error ${worst.error.toExponential(2)} in ${worst.tensor} ` +
        `(${deviations.length} tensors)`,
    )
    const shown = options.all === true ? sorted : sorted.filter(({ error }) => error > tolerance)
    for (const { tensor, error } of shown) console.log(`       ${error.toExponential(2)}  ${tensor}`)
  }
  console.log(`${files.length - beyond} passed, ${beyond} failed`)
  process.exitCode = beyond > 0 ? 1 : 0
}

main().catch((error: unknown) => {
  console.error(SoftMoEError.is(error) ? `${error.code}: ${error.message}` : error)
  process.exitCode = 1
})
