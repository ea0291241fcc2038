/**
 * Compares models with golden files made by the papers' own code in float64: logits, loss and every gradient.
 *
 *     npm run check:golden -- [--device cpu|cuda] [--tolerance 2e-5] FILE...
 *
 * Prints the worst error of each file, relative to the largest element of its tensor, and exits with 1 if one is beyond
 * the tolerance. test/support/golden-model.ts says what a file holds.
 */
import { Command } from 'commander'
import type { DeviceKind } from '../lib/core/device.js'
import { SoftMoEError } from '../lib/core/errors.js'
import { deviationsOfGoldenModel } from '../test/support/golden-model.js'

async function main(): Promise<void> {
  const program = new Command('check:golden')
    .description(
      "Compares models with golden files of the papers' own code: logits, loss and every gradient.",
    )
    .argument('<files...>', 'safetensors files of golden models')
    .option('--device <kind>', 'auto, cpu or cuda', 'cpu')
    .option('--tolerance <error>', 'largest error relative to the largest element of a tensor', '2e-5')
    .option('--all', 'print every tensor, not only the worst')
    .parse()
  const options = program.opts<{ device: DeviceKind; tolerance: string; all?: boolean }>()
  const tolerance = Number(options.tolerance)
  if (!(tolerance > 0)) program.error(`--tolerance is '${options.tolerance}'; wanted a number over 0`)
  let beyond = 0
  for (const path of program.args) {
    const deviations = await deviationsOfGoldenModel(path, options.device)
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
  console.log(`${program.args.length - beyond} passed, ${beyond} failed`)
  process.exitCode = beyond > 0 ? 1 : 0
}

main().catch((error: unknown) => {
  console.error(SoftMoEError.is(error) ? `${error.code}: ${error.message}` : error)
  process.exitCode = 1
})
