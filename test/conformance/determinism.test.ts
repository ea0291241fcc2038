// The same inputs give the same bits: from run to run, for any number of threads, and for a sample alone or inside any
// batch.
import { describe, expect, it } from 'vitest'
import {
  activate,
  attention,
  crossEntropy,
  dropout,
  experts,
  layerNorm,
  linear,
  matmul,
  mean,
  setThreads,
  softmax,
  sum,
  transpose,
} from '../../lib/index.js'
import { native } from '../../lib/native.js'
import { generate, randomSource, type Ref } from '../reference/array.js'
import { slice } from '../reference/elementwise.js'
import { type Storage, stored } from '../support/arbitraries.js'
import { fusedSoftMoELayer, layerOperands, type LayerOperands } from '../support/soft-routing.js'
import { device, differentiate, evaluate, type Operand, randomOperand } from '../support/tensors.js'

const onCpu = device.kind === 'cpu'

/** Named arrays that a computation gives: results and gradients. */
type Outcome = Readonly<Record<string, Ref>>

const softCase = {
  tokens: 37,
  dim: onCpu ? 96 : 24,
  experts: 5,
  slotsPerExpert: 3,
  hidden: onCpu ? 130 : 20,
  scale: 2,
  dispatch: 'soft',
  combine: 'soft',
  epsilonMode: 'inside',
  padding: 'none',
} as const

const layerCase = (batch: number, storage: Storage) => ({ ...softCase, batch, storage, seed: 5 })

async function outcome(
  result: Promise<{ y: Ref; gradients: Readonly<Record<string, Ref>> }>,
): Promise<Outcome> {
  const { y, gradients } = await result
  return { y, ...gradients }
}

/** Rows enough that the work is divided. */
const ROWS = onCpu ? 397 : 70
const WIDE = onCpu ? 200 : 40

const computations: Readonly<Record<string, (storage: Storage) => Promise<Outcome>>> = {
  linear: (storage) => {
    const random = randomSource(1)
    const x = randomOperand(random, [ROWS, WIDE], storage)
    const w = randomOperand(random, [WIDE, WIDE + 3], storage, 0.1)
    const bias = randomOperand(random, [WIDE + 3])
    const dy = stored(random.array([ROWS, WIDE + 3]), storage)
    const forward = { activation: 'gelu' } as const
    return outcome(differentiate({ x, w, bias }, ({ x, w, bias }) => linear(x, w, bias, forward), dy))
  },
  matmul: (storage) => {
    const random = randomSource(2)
    const a = randomOperand(random, [3, 67, WIDE], storage)
    const b = randomOperand(random, [3, 129, WIDE], storage)
    const dy = stored(random.array([3, 67, 129]), storage)
    return outcome(differentiate({ a, b }, ({ a, b }) => matmul(a, b, { transposeB: true }), dy))
  },
  experts: (storage) => {
    const random = randomSource(3)
    const x = randomOperand(random, [4, 61, 67], storage)
    const dy = stored(random.array([4, 61, 67]), storage)
    return outcome(
      differentiate(
        { x, ...expertWeights(random, storage) },
        ({ x, ...weights }) => experts(x, weights, { dropoutRate: 0.2, key: { seed: 1, stream: 2 } }),
        dy,
      ),
    )
  },
  attention: (storage) => {
    const random = randomSource(4)
    const [q, k, v] = [0, 1, 2].map(() => randomOperand(random, [3, 65, 4, 24], storage))
    const dy = stored(random.array([3, 65, 4, 24]), storage)
    const forward = { dropoutRate: 0.1, key: { seed: 1, stream: 2 } }
    return outcome(differentiate({ q, k, v }, ({ q, k, v }) => attention(q, k, v, forward), dy))
  },
  layerNorm: (storage) => {
    const random = randomSource(5)
    const x = randomOperand(random, [ROWS, WIDE], storage)
    const [scale, bias] = [randomOperand(random, [WIDE]), randomOperand(random, [WIDE])]
    const dy = stored(random.array([ROWS, WIDE]), storage)
    return outcome(differentiate({ x, scale, bias }, ({ x, scale, bias }) => layerNorm(x, scale, bias), dy))
  },
  softmoe: (storage) => {
    const random = randomSource(6)
    const operands = layerOperands(layerCase(4, storage), random)
    const dy = stored(random.array([4, softCase.tokens, softCase.dim]), storage)
    return outcome(differentiate({ ...operands }, (tensors) => fusedSoftMoELayer(tensors, softCase), dy))
  },
  crossEntropy: (storage) => {
    const random = randomSource(7)
    const logits = randomOperand(random, [ROWS, 101], storage)
    const labels = Int32Array.from({ length: ROWS }, (_, i) => i % 101)
    return outcome(
      differentiate(
        { logits },
        ({ logits }) => crossEntropy(logits, labels),
        generate([], () => 1),
      ),
    )
  },
  elementwise: (storage) => {
    const random = randomSource(8)
    const x = randomOperand(random, [ROWS, WIDE], storage)
    const dy = stored(random.array([WIDE, ROWS]), storage)
    const forward = (x: Parameters<typeof softmax>[0]) =>
      transpose(dropout(activate(softmax(x), 'gelu'), 0.3, { seed: 4, stream: 9 }))
    return outcome(differentiate({ x }, ({ x }) => forward(x), dy))
  },
  sums: async (storage) => {
    const x = randomOperand(randomSource(9), [ROWS, WIDE], storage)
    return {
      all: await evaluate({ x }, ({ x }) => sum(x)),
      rows: await evaluate({ x }, ({ x }) => mean(x, 0)),
      columns: await evaluate({ x }, ({ x }) => mean(x, 1)),
    }
  },
  globalNorm: async () => {
    const arrays = [ROWS * WIDE, 7, 1].map((count) => device.tensor(randomSource(count).array([count]).data))
    const handles = native.globalNorm(
      arrays.map((array) => array.handle),
      1,
    )
    const values = await Promise.all(handles.map((handle) => native.download(handle)))
    for (const handle of handles) native.dispose(handle)
    for (const array of arrays) array.dispose()
    return { values: generate([2], (i) => values[i][0]) }
  },
}

function expertWeights(random: ReturnType<typeof randomSource>, storage: Storage) {
  return {
    w1: randomOperand(random, [4, 67, 70], storage, 0.1),
    b1: randomOperand(random, [4, 70]),
    w2: randomOperand(random, [4, 70, 67], storage, 0.1),
    b2: randomOperand(random, [4, 67]),
  }
}

function expectSameBits(actual: Outcome, expected: Outcome): void {
  for (const [name, array] of Object.entries(expected)) {
    const different = array.data.findIndex((value, i) => !Object.is(actual[name].data[i], value))
    expect(different, `first element of ${name} that differs`).toBe(-1)
  }
}

describe.each(['float32', 'bfloat16'] as const)('%s', (storage) => {
  describe.each(Object.keys(computations))('%s', (name) => {
    it('gives the same bits again', async () => {
      const first = await computations[name](storage)
      expect(Object.values(first).every((array) => array.data.every(Number.isFinite))).toBe(true)
      expectSameBits(await computations[name](storage), first)
    })

    it.runIf(onCpu)('gives the same bits with 1, 2 and 5 threads', async () => {
      const before = device.description.threads as number
      try {
        setThreads(1)
        const alone = await computations[name](storage)
        for (const threads of [2, 5]) {
          setThreads(threads)
          expectSameBits(await computations[name](storage), alone)
        }
      } finally {
        setThreads(before)
      }
    })
  })

  describe('a sample alone and inside a batch', () => {
    /** Operands whose axis `axis` is cut to [start, end); the others are passed whole. */
    const cut = (
      operands: Readonly<Record<string, Operand>>,
      axes: Readonly<Record<string, number>>,
      start: number,
      end: number,
    ) =>
      Object.fromEntries(
        Object.entries(operands).map(([name, [array, dtype]]) => [
          name,
          [name in axes ? slice(array, axes[name], start, end) : array, dtype] as const,
        ]),
      )

    /** Runs `run` on the whole and on parts of it; the parts' results must be parts of the whole's, bit by bit. */
    async function expectPartsToAgree<Names extends string>(
      operands: Readonly<Record<Names, Operand>>,
      axes: Readonly<Record<string, number>>,
      dy: Ref,
      extent: number,
      run: (operands: Readonly<Record<Names, Operand>>, dy: Ref) => Promise<Outcome>,
    ): Promise<void> {
      const whole = await run(operands, dy)
      for (const [start, end] of [
        [0, 1],
        [extent - 1, extent],
        [Math.floor(extent / 3), Math.floor(extent / 3) + Math.ceil(extent / 4)],
      ]) {
        const part = await run(
          cut(operands, axes, start, end) as Record<Names, Operand>,
          slice(dy, axes.y, start, end),
        )
        for (const [name, axis] of Object.entries(axes)) {
          const expected = { [name]: slice(whole[name], axis, start, end) }
          expectSameBits({ [name]: part[name] }, expected)
        }
      }
    }

    it('linear: rows', async () => {
      const random = randomSource(1)
      const x = randomOperand(random, [ROWS, WIDE], storage)
      const w = randomOperand(random, [WIDE, 67], storage, 0.1)
      const bias = randomOperand(random, [67])
      const dy = stored(random.array([ROWS, 67]), storage)
      await expectPartsToAgree({ x, w, bias }, { x: 0, y: 0 }, dy, ROWS, (operands, dy) =>
        outcome(differentiate(operands, ({ x, w, bias }) => linear(x, w, bias, { activation: 'gelu' }), dy)),
      )
    })

    it('experts: rows of each expert', async () => {
      const random = randomSource(2)
      const x = randomOperand(random, [4, 61, 67], storage)
      const dy = stored(random.array([4, 61, 67]), storage)
      await expectPartsToAgree(
        { x, ...expertWeights(random, storage) },
        { x: 1, y: 1 },
        dy,
        61,
        (operands, dy) => outcome(differentiate(operands, ({ x, ...weights }) => experts(x, weights), dy)),
      )
    })

    it('experts with rows of their own number: as with the same number', async () => {
      const random = randomSource(3)
      const weights = expertWeights(random, storage)
      const x = randomOperand(random, [4, 9, 67], storage)
      const uniform = await evaluate({ x, ...weights }, ({ x, ...weights }) => experts(x, weights))
      const flat = [{ shape: [36, 67], data: x[0].data }, storage] as const
      const expertOffsets = device.tensor(Int32Array.of(0, 9, 18, 27, 36))
      const rowToken = device.tensor(Int32Array.from({ length: 36 }, (_, i) => i))
      const ragged = await evaluate({ x: flat, ...weights }, ({ x, ...weights }) =>
        experts(x, weights, {}, { expertOffsets, rowToken }),
      )
      expectSameBits({ y: ragged }, { y: uniform })
      expertOffsets.dispose()
      rowToken.dispose()
    })

    it('attention: sequences, and queries of a sequence', async () => {
      const random = randomSource(4)
      const [q, k, v] = [0, 1, 2].map(() => randomOperand(random, [7, 65, 2, 24], storage))
      const dy = stored(random.array([7, 65, 2, 24]), storage)
      const run = (operands: Readonly<Record<'q' | 'k' | 'v', Operand>>, dy: Ref) =>
        outcome(differentiate(operands, ({ q, k, v }) => attention(q, k, v), dy))
      await expectPartsToAgree({ q, k, v }, { q: 0, k: 0, v: 0, y: 0 }, dy, 7, run)
      await expectPartsToAgree({ q, k, v }, { q: 1, y: 1 }, dy, 65, run)
    })

    it('layer norm and softmax: rows', async () => {
      const random = randomSource(5)
      const x = randomOperand(random, [ROWS, WIDE], storage)
      const [scale, bias] = [randomOperand(random, [WIDE]), randomOperand(random, [WIDE])]
      const dy = stored(random.array([ROWS, WIDE]), storage)
      await expectPartsToAgree({ x, scale, bias }, { x: 0, y: 0 }, dy, ROWS, (operands, dy) =>
        outcome(differentiate(operands, ({ x, scale, bias }) => softmax(layerNorm(x, scale, bias)), dy)),
      )
    })

    it('Soft MoE: sequences', async () => {
      const random = randomSource(6)
      const operands: LayerOperands = layerOperands(layerCase(7, storage), random)
      const dy = stored(random.array([7, softCase.tokens, softCase.dim]), storage)
      await expectPartsToAgree({ ...operands }, { x: 0, y: 0 }, dy, 7, (operands, dy) =>
        outcome(differentiate({ ...operands }, (tensors) => fusedSoftMoELayer(tensors, softCase), dy)),
      )
    })
  })
})
