import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { openDevice } from '../../lib/core/device.js'
import { RandomSource } from '../../lib/core/random-source.js'
import { VisionTransformer } from '../../lib/models/vision-transformer.js'
import { crossEntropy } from '../../lib/ops/losses.js'
import { AdamW } from '../../lib/optim/adamw.js'
import { loadCheckpoint, readCheckpointInfo, saveCheckpoint } from '../../lib/training/checkpoint.js'
import { SafetensorsFile, writeSafetensors } from '../../lib/training/safetensors.js'
import { temporaryFolder } from '../data/temporary-folder.js'

const CONFIG = {
  imageSize: 8,
  channels: 1,
  patchSize: 4,
  width: 8,
  depth: 1,
  numHeads: 2,
  mlpDim: 16,
  numClasses: 3,
  dropoutRate: 0.2,
} as const
const device = openDevice('cpu')

class Training {
  readonly model: VisionTransformer
  readonly optimizer: AdamW

  constructor(seed: number, change: object = {}) {
    this.model = new VisionTransformer({ ...CONFIG, ...change }, { device, random: new RandomSource(seed) })
    this.optimizer = new AdamW(this.model.parameters(), { learningRate: 0.01, weightDecay: 0.1 })
  }

  async steps(count: number): Promise<void> {
    const images = device.uniform([6, 8, 8, 1], { key: { seed: 3, stream: 1 } })
    for (let i = 0; i < count; i++) {
      await this.optimizer.step(() => crossEntropy(this.model.forward(images), [0, 1, 2, 0, 1, 2]))
    }
    images.dispose()
  }

  async values(): Promise<Record<string, number[]>> {
    const found: Record<string, number[]> = {}
    for (const [name, { value }] of this.model.namedParameters()) found[name] = Array.from(await value.data())
    for (const [name, state] of this.optimizer.namedState()) found[name] = Array.from(await state.data())
    return found
  }
}

const refusal = (code: string, message: RegExp): unknown =>
  expect.objectContaining({ name: 'SoftMoEError', code, message: expect.stringMatching(message) as string })

describe('a checkpoint', () => {
  it('makes training go on as if it had never stopped, dropout included', async () => {
    const path = join(temporaryFolder(), 'a.safetensors')
    const uninterrupted = new Training(1)
    await uninterrupted.steps(2)
    await saveCheckpoint(path, uninterrupted, { note: 'kept' })
    await uninterrupted.steps(3)
    const resumed = new Training(99)
    const info = await loadCheckpoint(path, resumed)
    expect(info.steps).toBe(2)
    expect(info.metadata.get('note')).toBe('kept')
    await resumed.steps(3)
    expect(await resumed.values()).toEqual(await uninterrupted.values())
    expect(resumed.model.random.state).toEqual(uninterrupted.model.random.state)
  })

  it('bears the parameters under their own paths', async () => {
    const path = join(temporaryFolder(), 'a.safetensors')
    const { model } = new Training(1)
    await saveCheckpoint(path, { model })
    const file = await SafetensorsFile.open(path)
    expect([...file.tensors.keys()].sort()).toEqual([...model.parameters().keys()].sort())
    expect(file.tensors.get('head/kernel')).toMatchObject({ dtype: 'F32', shape: [8, 3] })
    await file.close()
    expect(await readCheckpointInfo(path)).toMatchObject({ steps: 0, random: model.random.state })
  })

  it('is refused with the tensor and both shapes when the model differs, and nothing changes', async () => {
    const path = join(temporaryFolder(), 'a.safetensors')
    const saved = new Training(1)
    await saveCheckpoint(path, saved)
    const other = new Training(2, { numClasses: 5 })
    const before = await other.values()
    await expect(loadCheckpoint(path, other)).rejects.toEqual(
      refusal(
        'ERR_CHECKPOINT_MISMATCH',
        /optimizer\/m\/head\/kernel has shape \[8, 3\], the optimiser wants \[8, 5\]/,
      ),
    )
    await expect(loadCheckpoint(path, { model: other.model })).rejects.toEqual(
      refusal('ERR_CHECKPOINT_MISMATCH', /head\/kernel has shape \[8, 3\], the model wants \[8, 5\]/),
    )
    expect(await other.values()).toEqual(before)
    const deeper = new Training(2, { depth: 2 })
    await expect(loadCheckpoint(path, deeper)).rejects.toEqual(
      refusal('ERR_CHECKPOINT_MISMATCH', /no tensor optimizer\/m\/Encoder\/encoderblock_1\/\S+, .*shape \[/),
    )
    await saveCheckpoint(path, deeper)
    await expect(loadCheckpoint(path, saved)).rejects.toEqual(
      refusal(
        'ERR_CHECKPOINT_MISMATCH',
        /holds tensor Encoder\/encoderblock_1\/\S+ of shape \[.*does not have/,
      ),
    )
  })

  it('is refused when the optimiser finds no state in it', async () => {
    const path = join(temporaryFolder(), 'a.safetensors')
    const training = new Training(1)
    await saveCheckpoint(path, { model: training.model })
    await expect(loadCheckpoint(path, training)).rejects.toEqual(
      refusal('ERR_CHECKPOINT_MISMATCH', /no tensor optimizer\/m\//),
    )
  })

  it('is refused when it is truncated at any place', async () => {
    const path = join(temporaryFolder(), 'a.safetensors')
    const training = new Training(1)
    await saveCheckpoint(path, training)
    const { length } = readFileSync(path)
    for (const bytes of [length - 1, Math.floor(length / 2), 200, 8, 3, 0]) {
      truncateSync(path, bytes)
      await expect(loadCheckpoint(path, training), `${bytes} bytes`).rejects.toEqual(
        refusal('ERR_FILE_FORMAT', /a\.safetensors/),
      )
    }
  })

  it('is refused when it is foreign or damaged', async () => {
    const path = join(temporaryFolder(), 'a.safetensors')
    const training = new Training(1)
    writeFileSync(path, 'PK\u0003\u0004 and so on, a file of another program')
    await expect(loadCheckpoint(path, training)).rejects.toEqual(refusal('ERR_FILE_FORMAT', /safetensors/))
    await writeSafetensors(path, [], { format: 'pt' })
    await expect(loadCheckpoint(path, training)).rejects.toEqual(
      refusal('ERR_FILE_FORMAT', /its format is pt.*loadParameters/),
    )
    await writeSafetensors(path, [], { format: 'softmoe-checkpoint-1', steps: '1', random: '{"seed":1}' })
    await expect(loadCheckpoint(path, training)).rejects.toEqual(
      refusal('ERR_FILE_FORMAT', /random state are damaged/),
    )
    await expect(loadCheckpoint('/nowhere.safetensors', training)).rejects.toEqual(
      refusal('ERR_FILE_NOT_FOUND', /nowhere/),
    )
  })
})
