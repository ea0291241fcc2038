/**
 * Compares a model with a golden file made by the papers' own code in float64. A file holds the configuration in its
 * metadata, `images`, `labels`, `param.<path>`, and the results `logits`, `loss`, `cross_entropy`, `auxiliary_loss`,
 * `grad.<path>`, `grad.images`.
 */
import { type DeviceKind, openDevice } from '../../lib/core/device.js'
import { SoftMoEError } from '../../lib/core/errors.js'
import { Tape } from '../../lib/core/tape.js'
import type { Tensor } from '../../lib/core/tensor.js'
import { configFromFlax, type FlaxModelConfig } from '../../lib/models/flax-config.js'
import { loadParameters } from '../../lib/models/load-parameters.js'
import { VisionTransformer } from '../../lib/models/vision-transformer.js'
import { add, scale } from '../../lib/ops/elementwise.js'
import { crossEntropy } from '../../lib/ops/losses.js'
import { SafetensorsFile } from '../../lib/training/safetensors.js'

/** Gradients that are zero in exact arithmetic (a key's bias) are held to this share of the file's largest gradient. */
const ZERO_GRADIENT = 1e-12

/** How far a tensor is from the golden one. */
export interface Deviation {
  readonly tensor: string
  /** Largest absolute difference, relative to the largest element of the golden tensor. */
  readonly error: number
}

async function float64(file: SafetensorsFile, name: string): Promise<Float64Array> {
  const entry = file.tensors.get(name)
  if (entry?.dtype === 'F64') return new Float64Array((await file.read(name)).buffer)
  return Float64Array.from(await file.readFloat32(name))
}

function largest(values: Float64Array): number {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
}

/** Largest absolute difference; NaN anywhere counts as infinitely far. */
function distance(actual: ArrayLike<number>, expected: Float64Array): number {
  if (actual.length !== expected.length) return Infinity
  let worst = 0
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs((actual[i] ?? NaN) - (expected[i] ?? NaN))
    if (Number.isNaN(difference)) return Infinity
    worst = Math.max(worst, difference)
  }
  return worst
}

/** Logits, loss and every gradient of the model that a golden file describes. */
export async function deviationsOfGoldenModel(path: string, kind: DeviceKind): Promise<readonly Deviation[]> {
  const device = openDevice(kind)
  const file = await SafetensorsFile.open(path)
  try {
    const text = file.metadata.get('config')
    if (text === undefined) {
      throw new SoftMoEError(
        'ERR_FILE_FORMAT',
        `${path} has no metadata 'config'; it is not a golden model file`,
      )
    }
    const config = JSON.parse(text) as FlaxModelConfig & { readonly aux_weight: number }
    const model = new VisionTransformer(configFromFlax(config), { device }).eval()
    const { unused } = await loadParameters(model, path, { prefix: 'param.' })
    if (unused.length > 0) {
      throw new SoftMoEError(
        'ERR_CHECKPOINT_MISMATCH',
        `${path}: the model has no parameter ${unused.join(', ')}`,
      )
    }
    const imageShape = file.tensors.get('images')?.shape ?? []
    const images = device.tensor(await file.readFloat32('images'), imageShape, { requiresGrad: true })
    const labels = new Int32Array((await file.read('labels')).buffer)
    const tape = new Tape()
    const outputs = tape.record(() => {
      const { logits, auxiliaryLoss } = model.forwardWithLoss(images)
      const task = crossEntropy(logits, labels)
      const loss = auxiliaryLoss === null ? task : add(task, scale(auxiliaryLoss, config.aux_weight))
      return { logits, auxiliaryLoss, task, loss }
    })
    tape.backward(outputs.loss)

    const results = new Map<string, Tensor>([
      ['logits', outputs.logits],
      ['cross_entropy', outputs.task],
      ['loss', outputs.loss],
    ])
    if (outputs.auxiliaryLoss !== null) results.set('auxiliary_loss', outputs.auxiliaryLoss)
    const gradients = new Map<string, Tensor | null>([['images', images.grad]])
    for (const [name, parameter] of model.namedParameters()) gradients.set(name, parameter.grad)
    return await compare(file, results, gradients)
  } finally {
    await file.close()
  }
}

async function compare(
  file: SafetensorsFile,
  results: ReadonlyMap<string, Tensor>,
  gradients: ReadonlyMap<string, Tensor | null>,
): Promise<readonly Deviation[]> {
  const deviations: Deviation[] = []
  for (const [name, tensor] of results) {
    const expected = await float64(file, name)
    deviations.push({
      tensor: name,
      error: distance(await tensor.data(), expected) / (largest(expected) || 1),
    })
  }
  const golden = new Map<string, Float64Array>()
  for (const name of file.tensors.keys()) {
    if (name.startsWith('grad.')) golden.set(name.slice('grad.'.length), await float64(file, name))
  }
  const largestGradient = Math.max(...[...golden.values()].map(largest))
  for (const [name, expected] of golden) {
    const actual = await gradients.get(name)?.data()
    const own = largest(expected)
    const reference = own < ZERO_GRADIENT ? largestGradient : own
    const error = actual === undefined ? Infinity : distance(actual, expected) / reference
    deviations.push({ tensor: `grad.${name}`, error })
  }
  return deviations
}
