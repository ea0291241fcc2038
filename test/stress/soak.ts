/**
 * Trains for 10,000 steps with everything a run does (a loader on its thread, evaluations, checkpoints, metrics) and
 * states how memory grew after the first fifth: the slope of the process's resident memory by linear regression, and
 * the live tensors and bytes of the device at the same point of every step, which may not change at all.
 *
 *     npm run test:soak -- [--quick]
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openDevice, train, type TrainOptions } from '../../lib/index.js'
import { TINY_MODEL, tinyData } from '../training/tiny-run.js'
import { processStatus } from './processes.js'
import { slope } from './regression.js'
import { check, figure, quick, runParts } from './tally.js'

const STEPS = quick ? 1500 : 10_000
const WARM_UP = STEPS / 5
/** Steps between two readings of resident memory. */
const SAMPLING = 10
/** The greatest slope that passes, in bytes a step; a short run still grows to its working size and is not judged. */
const LIMIT = 200

async function soak(options: Pick<TrainOptions, 'router' | 'precision'>): Promise<void> {
  const out = mkdtempSync(join(tmpdir(), 'softmoe-soak-'))
  const device = openDevice('cpu')
  const steps: number[] = []
  const resident: number[] = []
  const live = new Map<string, number>()
  let asked = 0
  const { model } = await train(
    {
      data: tinyData(),
      model: { ...TINY_MODEL, moe: { ...TINY_MODEL.moe, router: 'soft' } },
      batchSize: 8,
      steps: STEPS,
      evalEvery: STEPS / 20,
      augment: { cropPadding: 1, flip: true, randAugment: {} },
      device,
      out,
      ...options,
    },
    {
      onStep: ({ step }) => {
        if (step < WARM_UP) return
        const { tensors, bytes, systemAllocations } = device.memoryUsage()
        if (step === WARM_UP) asked = systemAllocations
        const key = `${tensors} tensors, ${bytes} bytes`
        live.set(key, (live.get(key) ?? 0) + 1)
        if (step % SAMPLING > 0) return
        steps.push(step)
        resident.push(1024 * processStatus('VmRSS'))
      },
    },
  )
  model.dispose()
  rmSync(out, { recursive: true })
  const { tensors, bytes, systemAllocations } = device.memoryUsage()
  const growth = slope(steps, resident)
  const [first, last] = [resident[0], resident[resident.length - 1]].map((value) =>
    (value / 2 ** 20).toFixed(1),
  )
  figure(
    `  ${STEPS} steps: resident memory ${first} MiB after ${WARM_UP} steps, ${last} MiB at the end, ` +
      `slope ${growth.toFixed(1)} bytes a step over ${steps.length} readings`,
  )
  for (const [what, times] of live) figure(`  live on the device: ${what}, at ${times} steps`)
  figure(`  asked of the system since step ${WARM_UP}: ${systemAllocations - asked} blocks`)
  if (!quick) {
    check(
      growth < LIMIT,
      `resident memory grows by ${growth.toFixed(1)} bytes a step, wanted less than ${LIMIT}`,
    )
  }
  // The last step of a stretch is settled with no other one queued behind it.
  check(
    live.size <= 2,
    `the device holds the same at the same point of each step: ${[...live.keys()].join('; ')}`,
  )
  check(tensors === 0 && bytes === 0, `${tensors} tensors of ${bytes} bytes are left after the run`)
}

await runParts({
  'soft router in float32': () => soak({ router: 'soft', precision: 'float32' }),
  'tokens choice in bfloat16': () => soak({ router: 'tokens-choice', precision: 'bfloat16' }),
})
