import { describe, expect, it } from 'vitest'
import {
  activate,
  AdamW,
  add,
  attention,
  cast,
  customGradient,
  isRecording,
  LayerNorm,
  layerNorm,
  linear,
  mean,
  multiply,
  noGrad,
  reshape,
  scale,
  scope,
  setDetectAnomaly,
  softmax,
  sum,
  Tape,
  type Tensor,
} from '../../lib/index.js'
import { copy, innerProduct, randomSource, type Ref } from '../reference/array.js'
import { numericGradient } from '../reference/finite-difference.js'
import { arrayOf, device, expectClose, expectNoTensorsLeftBehind, tensorOf } from '../support/tensors.js'

expectNoTensorsLeftBehind()

const leaf = (values: readonly number[], shape = [values.length]): Tensor =>
  device.tensor(values, shape, { requiresGrad: true })

const gradientOf = (tensor: Tensor): number[] => [...(tensor.grad?.dataSync() ?? [])]

function backward(forward: () => Tensor, gradient?: number): void {
  const tape = new Tape()
  const loss = tape.record(forward)
  try {
    tape.backward(loss, gradient)
  } finally {
    loss.dispose()
  }
}

function disposeAll(...tensors: readonly Tensor[]): void {
  for (const tensor of tensors) {
    tensor.grad?.dispose()
    tensor.dispose()
  }
}

describe('backward', () => {
  it('adds to the gradients that are there', () => {
    const x = leaf([1, 2])
    backward(() => sum(scale(x, 3)))
    backward(() => sum(scale(x, 4)))
    expect(gradientOf(x)).toEqual([7, 7])
    disposeAll(x)
  })

  it('adds up over every use of a tensor', () => {
    const x = leaf([2, 3])
    backward(() => {
      const doubled = add(x, x)
      return sum(add(multiply(doubled, x), doubled, 5))
    })
    // 2x^2 + 10x
    expect(gradientOf(x)).toEqual([18, 22])
    disposeAll(x)
  })

  it('passes one gradient to two leaves without sharing it between them', () => {
    const [a, b] = [leaf([1, 1]), leaf([2, 2])]
    backward(() => sum(add(a, b)))
    a.grad?.dispose()
    expect(gradientOf(b)).toEqual([1, 1])
    disposeAll(a, b)
  })

  it('multiplies with the factor that it is given', () => {
    const x = leaf([1, 2])
    backward(() => sum(x), 0.25)
    expect(gradientOf(x)).toEqual([0.25, 0.25])
    disposeAll(x)
  })

  it('leaves tensors without a part in the loss, and those that want none, alone', () => {
    const [x, unused] = [leaf([1]), leaf([1])]
    const constant = device.ones([1])
    backward(() => {
      scale(unused, 2)
      return sum(multiply(x, constant))
    })
    expect([x.grad === null, unused.grad, constant.grad]).toEqual([false, null, null])
    disposeAll(x, unused, constant)
  })

  it('gives float32 gradients of views and copies to the parameter behind them', () => {
    const x = leaf([1, 2, 3, 4])
    backward(() => sum(multiply(reshape(x, [2, 2]), cast(cast(reshape(x, [2, 2]), 'bfloat16'), 'float32'))))
    expect(gradientOf(x)).toEqual([2, 4, 6, 8])
    disposeAll(x)
  })

  it('frees every intermediate, also when it throws', () => {
    const x = leaf([1, 2])
    const before = device.memoryUsage().tensors
    const tape = new Tape()
    const loss = tape.record(
      () =>
        customGradient(
          'broken',
          [sum(scale(scale(x, 2), 2))],
          ([y]) => [scale(y, 1)],
          () => [],
        )[0],
    )
    expect(() => tape.backward(loss)).toThrow(/returned 0 tensors for 1 inputs/)
    loss.dispose()
    expect(device.memoryUsage().tensors).toBe(before)
    disposeAll(x)
  })
})

describe('record', () => {
  it('keeps what is returned, and what keep() names, and frees the rest', () => {
    const x = leaf([1, 2])
    const tape = new Tape()
    let kept: Tensor | undefined
    let freed: Tensor | undefined
    const { loss, extra } = tape.record(() => {
      kept = scale(x, 2)
      freed = scale(kept, 2)
      tape.keep(kept)
      return { loss: sum(freed), extra: [scale(x, 7)] }
    })
    tape.backward(loss)
    expect([kept?.disposed, freed?.disposed, extra[0].disposed, loss.disposed]).toEqual([
      false,
      true,
      false,
      false,
    ])
    expect([...extra[0].dataSync()]).toEqual([7, 14])
    disposeAll(x, loss, extra[0], kept!)
  })

  it('frees everything when its function throws', () => {
    const x = leaf([1])
    const before = device.memoryUsage().tensors
    expect(() =>
      new Tape().record(() => {
        scale(x, 2)
        throw new Error('stop')
      }),
    ).toThrow('stop')
    expect(device.memoryUsage().tensors).toBe(before)
    expect(isRecording()).toBe(false)
    disposeAll(x)
  })

  it('frees everything when the tape is disposed of without backward', () => {
    const x = leaf([1])
    const before = device.memoryUsage().tensors
    {
      using tape = new Tape()
      tape.record(() => {
        scale(scale(x, 2), 2)
      })
      expect(device.memoryUsage().tensors).toBe(before + 2)
    }
    expect(device.memoryUsage().tensors).toBe(before)
    disposeAll(x)
  })

  it('frees everything when a gradient fails, the gradients on their way too', () => {
    const x = leaf([1, 2])
    const before = device.memoryUsage().tensors
    const fail = (): never => {
      throw new Error('stop')
    }
    const compute = (): Tensor => {
      const failing = customGradient('failing', [x], ([x]) => [scale(x, 2)], fail)[0]
      return sum(add(add(x, failing), scale(x, 3)))
    }
    expect(() => {
      backward(compute)
    }).toThrow('stop')
    expect(device.memoryUsage().tensors).toBe(before)
    const layer = new LayerNorm({ dim: 2 }, { device })
    const optimizer = new AdamW(layer.parameters(), { learningRate: 1 })
    const withState = device.memoryUsage().tensors
    expect(() => optimizer.accumulate(compute)).toThrow('stop')
    expect(device.memoryUsage().tensors).toBe(withState)
    optimizer.dispose()
    layer.dispose()
    disposeAll(x)
  })
})

describe('noGrad', () => {
  it('records nothing', () => {
    const x = leaf([3])
    backward(() => {
      expect(isRecording()).toBe(true)
      const square = noGrad(() => {
        expect(isRecording()).toBe(false)
        return multiply(x, x)
      })
      return sum(multiply(x, square))
    })
    expect(gradientOf(x)).toEqual([9])
    expect(isRecording()).toBe(false)
    disposeAll(x)
  })
})

describe('customGradient', () => {
  const cube = (x: Tensor): Tensor =>
    customGradient(
      'cube',
      [x],
      ([x]) => [multiply(multiply(x, x), x)],
      ([dy], [x]) => [multiply(dy!, scale(multiply(x, x), 3))],
    )[0]

  it('uses the function that it is given', () => {
    const x = leaf([1, -2, 3])
    backward(() => sum(cube(scale(x, 2))))
    expect(gradientOf(x)).toEqual([24, 96, 216])
    disposeAll(x)
  })

  it('may have several outputs, some without a part in the loss, and inputs without a gradient', () => {
    const [x, y] = [leaf([1, 2]), leaf([3, 4])]
    let seen: readonly (Tensor | null)[] = []
    backward(() => {
      const [first] = customGradient(
        'pair',
        [x, y],
        ([x, y]) => [multiply(x, y), add(x, y)],
        (gradients, [, y]) => {
          seen = gradients.map((gradient) => gradient)
          return [multiply(gradients[0]!, y), null]
        },
      )
      return sum(first)
    })
    expect(seen[1]).toBe(null)
    expect([gradientOf(x), y.grad]).toEqual([[3, 4], null])
    disposeAll(x, y)
  })
})

describe('gradients agree with finite differences of the device itself', () => {
  /** What the results are weighted with in the loss. */
  const weightsFor = (shape: readonly number[]): Ref => randomSource(78).array(shape)

  /** Elements move by 2^-5: fourth-order differences of float32 results are good to about 1e-4 then. */
  async function checkAgainstDifferences(
    operands: Readonly<Record<string, Ref>>,
    forward: (tensors: Readonly<Record<string, Tensor>>) => Tensor,
  ): Promise<void> {
    const tensorsOf = (requiresGrad: boolean): Record<string, Tensor> =>
      Object.fromEntries(
        Object.entries(operands).map(([name, array]) => [name, tensorOf(array, 'float32', { requiresGrad })]),
      )
    const evaluate = (): number =>
      noGrad(() => {
        const tensors = tensorsOf(false)
        const y = scope(() => forward(tensors))
        const loss = innerProduct(
          { shape: y.shape, data: Float64Array.from(y.dataSync()) },
          weightsFor(y.shape),
        )
        disposeAll(y, ...Object.values(tensors))
        return loss
      })
    const leaves = tensorsOf(true)
    const tape = new Tape()
    const loss = tape.record(() => {
      const y = forward(leaves)
      return sum(multiply(y, tensorOf(weightsFor(y.shape))))
    })
    tape.backward(loss)
    for (const [name, array] of Object.entries(operands)) {
      const gradient = await arrayOf(leaves[name].grad!)
      expectClose(gradient, numericGradient(evaluate, array, 2 ** -5), 2e-3, name)
    }
    disposeAll(loss, ...Object.values(leaves))
  }

  const random = randomSource(9)
  /** Multiples of 2^-10, so that shifted elements are exact. */
  const operand = (...shape: number[]): Ref => {
    const array = copy(random.array(shape))
    for (let i = 0; i < array.data.length; i++) array.data[i] = Math.round(array.data[i] * 1024) / 1024
    return array
  }

  it('a small network', async () => {
    await checkAgainstDifferences(
      { x: operand(3, 4), w: operand(4, 5), bias: operand(5), gain: operand(5) },
      ({ x, w, bias, gain }) =>
        softmax(layerNorm(linear(x, w, bias, { activation: 'gelu' }), gain, bias, 0.1)),
    )
  })

  it('attention', async () => {
    await checkAgainstDifferences(
      { q: operand(1, 3, 2, 4), k: operand(1, 5, 2, 4), v: operand(1, 5, 2, 4) },
      ({ q, k, v }) => activate(attention(q, k, v), 'tanh'),
    )
  })
})

describe('setDetectAnomaly', () => {
  it('names the operation whose result is not finite, and the one whose gradient is not', () => {
    const x = leaf([0, 1])
    setDetectAnomaly(true)
    try {
      expect(() => backward(() => sum(scale(scale(x, Infinity), 1)))).toThrow(
        expect.objectContaining({
          code: 'ERR_NON_FINITE',
          message: expect.stringContaining(
            'the output of scale has 2 NaN or infinite elements of 2',
          ) as string,
        }),
      )
      expect(() =>
        backward(
          () =>
            customGradient(
              'mine',
              [mean(x)],
              ([y]) => [scale(y, 1)],
              () => [device.full([], NaN)],
            )[0],
        ),
      ).toThrow(/the gradient of mine for its operand 1/)
    } finally {
      setDetectAnomaly(false)
    }
    disposeAll(x)
  })
})
