/** `softmoe train --router …` for every router by its name, and for none: a few steps, with what they leave. */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { beforeAll, expect, it } from 'vitest'
import { readEvaluation, readMetrics, ROUTER_NAMES, routerConfig } from '../../lib/index.js'
import { temporaryFolder } from '../data/temporary-folder.js'
import { writeTinyData } from '../training/tiny-run.js'

const program = join(import.meta.dirname, '../../dist/esm/cli/softmoe.js')
const folder = temporaryFolder()

beforeAll(() => writeTinyData(folder))

async function train(router: string): Promise<string> {
  const out = join(folder, router)
  const words = `train --router ${router} --steps 3 --batch-size 8 --threads 1 --device cpu`.split(' ')
  const files = ['--data', folder, '--model', join(folder, 'model.json'), '--out', out]
  const { stderr } = await promisify(execFile)(process.execPath, [program, ...words, ...files])
  expect(stderr).toBe('')
  return out
}

it.concurrent.each(ROUTER_NAMES)(
  '--router %s',
  async (name) => {
    const out = await train(name)
    const { model } = JSON.parse(readFileSync(join(out, 'configuration.json'), 'utf8')) as {
      readonly model: { readonly moe: { readonly router: unknown } }
    }
    // What the model's own router adds, such as noise, may stay.
    expect(model.moe.router).toMatchObject(routerConfig(name))
    const records = await readMetrics(join(out, 'metrics.jsonl'))
    expect(records.filter(({ kind }) => kind === 'train')).toHaveLength(3)
    const layers = records.findLast((record) => record.kind === 'router')?.layers ?? []
    const { routers } = await readEvaluation(join(out, 'evaluation.json'))
    expect(layers.map(({ layer }) => layer)).toEqual([1])
    expect(routers.map(({ layer, router }) => `${layer} ${router}`)).toEqual([`1 ${routerConfig(name).name}`])
    const known = routers[0].kind === 'soft' ? 'dispatchEntropy' : 'droppedFraction'
    expect(layers[0].metrics[known]).toBeGreaterThanOrEqual(0)
    expect(readFileSync(join(out, 'report.html'), 'utf8')).toContain(routerConfig(name).name)
  },
  300_000,
)

it.concurrent(
  '--router dense',
  async () => {
    const out = await train('dense')
    expect(readFileSync(join(out, 'configuration.json'), 'utf8')).not.toContain('"moe"')
    expect((await readEvaluation(join(out, 'evaluation.json'))).routers).toEqual([])
  },
  300_000,
)
