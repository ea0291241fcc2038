/** Trains a Soft MoE vision transformer on the images that ship with the package: `npx tsx examples/train.ts`. */
import { train } from 'softmoe'

const run = await train(
  { out: 'runs/example', router: 'soft', data: 'embedded', epochs: 2, overwrite: true },
  {
    onEvaluation: ({ step, accuracy }) => {
      console.log(`step ${step}: test accuracy ${(100 * accuracy).toFixed(1)} %`)
    },
  },
)
console.log(`report: ${run.report ?? 'none'}`)
