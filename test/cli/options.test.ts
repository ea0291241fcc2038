import { join } from 'node:path'
import { Command } from 'commander'
import { describe, expect, it } from 'vitest'
import { nearestName } from '../../lib/core/nearest-name.js'
import { runProgram, USAGE_STATUS } from '../../lib/cli/program.js'
import {
  evalCommand,
  predictCommand,
  trainCommand,
  trainOptions,
  type TrainCommandOptions,
} from '../../lib/cli/training-options.js'
import { folderOf } from '../data/temporary-folder.js'

interface Run {
  readonly status: number
  readonly error: string
  readonly given: unknown[]
}

/** Runs a program with the three training commands, which record what they are given. */
async function run(...args: string[]): Promise<Run> {
  const given: unknown[] = []
  let error = ''
  const train = trainCommand(['soft', 'dense', 'tokens-choice'])
  train.action(() => {
    given.push(trainOptions(train))
  })
  const program = new Command('softmoe')
    .addCommand(train)
    .addCommand(
      evalCommand().action((path: string, options: object) => {
        given.push(path, options)
      }),
    )
    .addCommand(
      predictCommand().action((path: string, images: string[], options: object) => {
        given.push(path, images, options)
      }),
    )
  const status = await runProgram(program, args, {
    out: () => undefined,
    error: (text) => {
      error += text
    },
  })
  return { status, error, given }
}

const train = async (...args: string[]): Promise<TrainCommandOptions> => {
  const { status, given, error } = await run('train', ...args)
  expect(error).toBe('')
  expect(status).toBe(0)
  return given[0] as TrainCommandOptions
}

describe('the options of train', () => {
  it('have defaults', async () => {
    expect(await train()).toEqual({
      model: 'tiny',
      router: 'soft',
      batchSize: 32,
      learningRate: 1e-3,
      weightDecay: 0.05,
      labelSmoothing: 0,
      clipNorm: 1,
      precision: 'float32',
      crop: 1,
      flip: false,
      randAugment: false,
      seed: 0,
      out: 'runs/latest',
      resume: false,
      overwrite: false,
      detectAnomaly: false,
      keep: 2,
      device: 'auto',
    })
  })

  it('are read as numbers, names and flags', async () => {
    const options = await train(
      ...[
        '--data',
        'images',
        '--router',
        'dense',
        '--steps',
        '1e3',
        '--learning-rate',
        '3e-4',
        '--weight-decay=.1',
      ],
      ...[
        '--flip',
        '--rand-augment',
        '--resume',
        '--threads',
        '2',
        '--seed',
        '9007199254740991',
        '--eval-every',
        '50',
      ],
    )
    expect(options).toMatchObject({
      data: 'images',
      router: 'dense',
      steps: 1000,
      learningRate: 3e-4,
      weightDecay: 0.1,
      flip: true,
      randAugment: true,
      resume: true,
      threads: 2,
      seed: Number.MAX_SAFE_INTEGER,
      evalEvery: 50,
    })
  })

  it.each([
    [['--batch-size', '0'], /'0' is invalid\. Give a whole number from 1 to 65536/],
    [['--batch-size', '12.5'], /whole number/],
    [['--batch-size', '0x10'], /whole number/],
    [['--batch-size', ''], /whole number/],
    [['--learning-rate', '0'], /a number above 0 and up to 10/],
    [['--learning-rate', 'NaN'], /a number above 0/],
    [['--weight-decay', '-1'], /from 0 to 10/],
    [['--epochs', 'Infinity'], /a number above 0/],
    [['--seed', '9007199254740992'], /whole number from 0 to 9007199254740991/],
    [['--router', 'sofd'], /Did you mean soft\? Give one of soft, dense, tokens-choice/],
    [['--precision', 'float16'], /Give one of float32, bfloat16/],
    [['--device', 'gpu'], /Give one of auto, cpu, cuda/],
    [['--out', ' '], /not empty/],
    [['--step', '5'], /unknown option '--step'\n\(Did you mean (one of )?--steps/],
    [['--steps', '5', '--epochs', '2'], /'--steps <count>' cannot be used with option '--epochs <count>'/],
    [['extra'], /too many arguments/],
  ])('refuse %j', async (args, message) => {
    const { status, error, given } = await run('train', ...args)
    expect(error).toMatch(message)
    expect([status, given]).toEqual([USAGE_STATUS, []])
  })
})

describe('--config', () => {
  const file = (content: unknown): string =>
    join(folderOf({ 'c.json': typeof content === 'string' ? content : JSON.stringify(content) }), 'c.json')

  it('lies under the command line and over the defaults', async () => {
    const config = file({ batchSize: 64, 'learning-rate': 0.01, router: 'dense', flip: true, resume: true })
    const options = await train('--config', config, '--batch-size', '32')
    expect(options).toMatchObject({
      batchSize: 32,
      learningRate: 0.01,
      router: 'dense',
      flip: true,
      resume: true,
    })
  })

  it('gives way to the command line between steps and epochs', async () => {
    const options = await train('--config', file({ steps: 100 }), '--epochs', '3')
    expect([options.steps, options.epochs]).toEqual([undefined, 3])
  })

  it.each([
    [{ batchsize: 1 }, /no option "batchsize"; did you mean batchSize\?/],
    [{ batchSize: 0 }, /batchSize is 0, which is not valid\. Give a whole number from 1 to 65536/],
    [{ batchSize: [1] }, /Give a text or a number/],
    [{ flip: 'no' }, /flip is "no", which is not valid\. Give true or false/],
    [{ router: 'dens' }, /Did you mean dense/],
    [{ steps: 1, epochs: 1 }, /1 steps and 1 epochs; give one of them/],
    [{ config: 'x' }, /no option "config"/],
    ['[1]', /no JSON object/],
    ['{"steps": 1', /is not JSON/],
  ])('refuses %j', async (content, message) => {
    const { status, error, given } = await run('train', '--config', file(content))
    expect(error).toMatch(message)
    expect(given).toEqual([])
    expect(status).toBeGreaterThan(0)
  })

  it('names a missing file', async () => {
    expect((await run('train', '--config', '/nowhere.json')).error).toMatch(/nowhere.json does not exist/)
  })
})

describe('the options of eval and predict', () => {
  it('come with their arguments', async () => {
    expect((await run('eval', 'runs/a', '--few-shot', '10', '--json')).given).toEqual([
      'runs/a',
      { batchSize: 128, fewShot: 10, json: true, device: 'auto' },
    ])
    expect((await run('eval', 'runs/a', '--weights', 'int8')).given[1]).toMatchObject({ weights: 'int8' })
    expect((await run('predict', 'runs/a', '1.png', '2.png', '--top', '1')).given).toEqual([
      'runs/a',
      ['1.png', '2.png'],
      { top: 1, json: false, device: 'auto' },
    ])
  })

  it.each([
    [['eval'], /missing required argument 'run'/],
    [['predict', 'runs/a'], /missing required argument 'images'/],
    [['predict', 'runs/a', 'x.png', '--top', '0'], /whole number from 1 to 1000/],
    [['eval', 'runs/a', '--weights', 'int4'], /Give one of float32, bfloat16, int8/],
    [['trian'], /unknown command 'trian'\n\(Did you mean train\?\)/],
  ])('refuse %j', async (args, message) => {
    const { status, error } = await run(...args)
    expect(error).toMatch(message)
    expect(status).toBe(USAGE_STATUS)
  })
})

it.each([
  ['sofd', 'soft'],
  ['dnese', 'dense'],
  ['SOFT', 'soft'],
  ['expert-choice', 'experts-choice'],
])('nearestName finds %s → %s', (given, nearest) => {
  expect(nearestName(given, ['soft', 'dense', 'experts-choice', 'tokens-choice'])).toBe(nearest)
})
