/**
 * Experts packed once for inference: the weights lie in memory in the order in which the kernels of this machine read
 * them, in float32, bfloat16 or int8.
 */
import { SoftMoEError } from '../core/errors.js'
import { withCollector } from '../core/lifetime.js'
import { recordOperation } from '../core/tape.js'
import { handleOf, optionalHandle, Tensor } from '../core/tensor.js'
import { type Activation, native, type WeightFormat } from '../native.js'
import type { ExpertWeights, RaggedRows } from './experts.js'
import { wrap } from './wrap.js'

/** Every format that weights can be frozen in. */
export const WEIGHT_FORMATS = ['float32', 'bfloat16', 'int8'] as const satisfies readonly WeightFormat[]

/** Throws `ERR_INVALID_ARGUMENT` unless `format` is one of {@link WEIGHT_FORMATS}. */
export function requireWeightFormat(format: unknown): asserts format is WeightFormat {
  if ((WEIGHT_FORMATS as readonly unknown[]).includes(format)) return
  throw new SoftMoEError(
    'ERR_INVALID_ARGUMENT',
    `the format of frozen weights is ${typeof format === 'string' ? `'${format}'` : typeof format}; ` +
      `wanted ${WEIGHT_FORMATS.map((name) => `'${name}'`).join(', ')}`,
  )
}

/** Opaque: what `freezeExperts` made of the weights of some experts. */
export class FrozenExperts {
  readonly format: WeightFormat
  readonly numExperts: number
  readonly dim: number
  readonly hidden: number
  readonly out: number
  readonly #packed: Tensor

  /** @param weights - float32 masters, as `ExpertWeights` has their shapes */
  constructor({ w1, b1, w2, b2 }: ExpertWeights, format: WeightFormat) {
    requireWeightFormat(format)
    this.format = format
    ;[this.numExperts = 0, this.dim = 0, this.hidden = 0] = w1.shape
    this.out = w2.shape[2] ?? 0
    const handle = native.freezeExperts(handleOf(w1), handleOf(b1), handleOf(w2), handleOf(b2), format)
    this.#packed = withCollector(null, () => new Tensor(handle, w1.device))
  }

  /**
   * `activation(x w1 + b1) w2 + b2`, without a gradient: whoever calls it refuses a recording tape.
   *
   * @param x - `[experts, rows, dim]`, or `[tokens, dim]` with `rows`; float32 or bfloat16, whatever the format
   * @returns `[experts, rows, out]`, or `[maxRows, out]` with `rows`; of x's dtype
   * @throws `ERR_SHAPE`, `ERR_DTYPE`, `ERR_DEVICE`
   */
  apply(x: Tensor, activation: Activation, rows?: RaggedRows): Tensor {
    const { numExperts, dim, hidden, out } = this
    const y = wrap(
      native.frozenExperts(
        handleOf(x),
        optionalHandle(rows?.expertOffsets),
        optionalHandle(rows?.rowToken),
        this.#packed.handle,
        this.format,
        numExperts,
        dim,
        hidden,
        out,
        activation,
      ),
      x.device,
    )
    recordOperation('frozenExperts', [x], [y], [], () => [null])
    return y
  }

  dispose(): void {
    this.#packed.dispose()
  }
}
