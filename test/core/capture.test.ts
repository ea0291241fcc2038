// Captured functions: a CUDA graph on the GPU, the function itself on the CPU; either way the same results.
import { afterEach, describe, expect, it } from 'vitest'
import {
  add,
  argmax,
  capture,
  type CapturedFunction,
  type Device,
  dropout,
  openDevice,
  RandomSource,
  scale,
  slice,
  softmax,
  SoftMoEError,
  Tape,
  type Tensor,
  VisionTransformer,
} from '../../lib/index.js'
import { randomSource } from '../reference/array.js'
import { device, expectNoTensorsLeftBehind } from '../support/tensors.js'

const onCuda = device.kind === 'cuda'

const owned: { dispose(): void }[] = []
/** Disposed of after the test. */
function own<T extends { dispose(): void }>(resource: T): T {
  owned.push(resource)
  return resource
}

expectNoTensorsLeftBehind()
afterEach(() => {
  for (const resource of owned.splice(0)) resource.dispose()
})

function numbers(seed: number, shape: readonly number[]): Tensor {
  return own(device.tensor(randomSource(seed).array(shape).data, shape))
}

/** `softmax(factor x)` with a factor that lies in a tensor of its own. */
async function capturedSoftmax(): Promise<CapturedFunction<[Tensor], Tensor>> {
  return own(await capture((x: Tensor) => softmax(scale(x, 3)), numbers(1, [5, 7])))
}

function model(router: 'soft' | 'tokens-choice', dtype: 'float32' | 'bfloat16'): VisionTransformer {
  const config = { imageSize: 8, channels: 1, patchSize: 4, width: 16, depth: 2, numHeads: 2, mlpDim: 32 }
  const built = new VisionTransformer(
    { ...config, numClasses: 5, moe: { router, numExperts: 4 }, dropoutRate: 0.1 },
    { device, dtype, random: new RandomSource(4) },
  )
  for (const [name, parameter] of built.namedParameters()) {
    if (name === 'head/kernel') parameter.set(randomSource(9).array(parameter.shape).data)
  }
  return own(built.eval())
}

/** The code that `action` is refused with. */
async function refusal(action: () => unknown): Promise<string> {
  try {
    await action()
  } catch (error) {
    return SoftMoEError.is(error) ? error.code : String(error)
  }
  return 'none'
}

describe('a captured function', () => {
  it.each([
    ['soft', 'float32'],
    ['soft', 'bfloat16'],
    ['tokens-choice', 'float32'],
    ['tokens-choice', 'bfloat16'],
  ] as const)('repeats a model with the router %s in %s, bit for bit', async (router, dtype) => {
    const vit = model(router, dtype)
    const shape = [2, 8, 8, 1]
    const captured = own(await capture((images: Tensor) => vit.forward(images), numbers(1, shape)))
    for (const seed of [2, 3, 4]) {
      const images = numbers(seed, shape)
      const repeated = own(captured.run(images))
      expect(await repeated.data()).toEqual(await own(vit.forward(images)).data())
    }
  })

  it('gives results that later runs leave alone', async () => {
    const captured = await capturedSoftmax()
    const [a, b] = [numbers(2, [5, 7]), numbers(3, [5, 7])]
    const [first, second] = [own(captured.run(a)), own(captured.run(b))]
    expect(await first.data()).toEqual(await own(softmax(own(scale(a, 3)))).data())
    expect(await second.data()).toEqual(await own(softmax(own(scale(b, 3)))).data())
  })

  it('returns what the function returns: arrays, objects, null, inputs and tensors of the caller', async () => {
    const constant = numbers(5, [3])
    const captured = own(
      await capture(
        (x: Tensor, y: Tensor) => ({ classes: argmax(x), pair: [x, scale(y, 2)], constant, none: null }),
        numbers(1, [4, 6]),
        numbers(2, [1]),
      ),
    )
    const [x, y] = [numbers(3, [4, 6]), numbers(4, [1])]
    const result = captured.run(x, y)
    const tensors = [result.classes, ...result.pair, result.constant].map(own)
    expect(result.none).toBeNull()
    expect(tensors).not.toContain(x)
    expect(tensors).not.toContain(constant)
    const expected = [own(argmax(x)), x, own(scale(y, 2)), constant]
    for (const [i, tensor] of tensors.entries()) {
      expect(tensor.shape).toEqual(expected[i].shape)
      expect(await tensor.data()).toEqual(await expected[i].data())
    }
  })

  it('sees parameters that were updated in place', async () => {
    const vit = model('soft', 'bfloat16')
    const images = numbers(1, [1, 8, 8, 1])
    const captured = own(await capture((x: Tensor) => vit.forward(x), images))
    const before = await own(captured.run(images)).data()
    for (const [name, parameter] of vit.namedParameters()) {
      if (name === 'head/kernel') parameter.set(randomSource(10).array(parameter.shape).data)
    }
    const after = await own(captured.run(images)).data()
    expect(after).not.toEqual(before)
    expect(after).toEqual(await own(vit.forward(images)).data())
  })

  it('refuses inputs unlike those it was captured with', async () => {
    const captured = await capturedSoftmax()
    expect(await refusal(() => captured.run(numbers(2, [7, 5])))).toBe('ERR_SHAPE')
    const integers = own(device.tensor(new Int32Array(35), [5, 7]))
    expect(await refusal(() => captured.run(integers))).toBe('ERR_DTYPE')
    expect(await refusal(() => captured.run(...([] as unknown as [Tensor])))).toBe('ERR_INVALID_ARGUMENT')
    const disposed = device.zeros([5, 7])
    disposed.dispose()
    expect(await refusal(() => captured.run(disposed))).toBe('ERR_DISPOSED')
    if (!onCuda) return
    const elsewhere: Device = openDevice('cpu')
    expect(await refusal(() => captured.run(own(elsewhere.zeros([5, 7]))))).toBe('ERR_DEVICE')
  })

  it('is refused after its disposal, which may come while runs are queued', async () => {
    const captured = await capturedSoftmax()
    const x = numbers(2, [5, 7])
    const y = own(captured.run(x))
    captured.dispose()
    captured.dispose()
    expect(captured.disposed).toBe(true)
    expect(await refusal(() => captured.run(x))).toBe('ERR_DISPOSED')
    expect(await y.data()).toEqual(await own(softmax(own(scale(x, 3)))).data())
  })

  it.runIf(onCuda)('keeps what it reads: a model that is disposed of goes on in it', async () => {
    const vit = model('soft', 'bfloat16')
    const images = numbers(1, [1, 8, 8, 1])
    const captured = own(await capture((x: Tensor) => vit.forward(x), images))
    const expected = await own(vit.forward(images)).data()
    const sizes = [...vit.namedParameters()].map(([, parameter]) => parameter.shape)
    vit.dispose()
    // Would get the weights' memory if that were free.
    const filled = sizes.map((shape) => own(device.full(shape, 9)))
    expect(await own(captured.run(images)).data()).toEqual(expected)
    expect(filled.length).toBeGreaterThan(10)
  })

  it('gives its memory back', async () => {
    await device.synchronize()
    device.emptyCache()
    const before = device.memoryUsage()
    const x = device.ones([1 << 16])
    const captured = await capture((input: Tensor) => scale(scale(input, 2), 3), x)
    captured.run(x).dispose()
    captured.dispose()
    x.dispose()
    await device.synchronize()
    device.emptyCache()
    const { tensors, bytes, cachedBytes } = device.memoryUsage()
    expect({ tensors, bytes, cachedBytes }).toEqual({
      tensors: before.tensors,
      bytes: before.bytes,
      cachedBytes: before.cachedBytes,
    })
  })
})

describe('capturing', () => {
  /** Functions that cannot be captured, and the code. On the CPU, where the function simply runs, some can. */
  const impossible: [string, (x: Tensor) => unknown, string][] = [
    ['throws', () => void JSON.parse('{'), 'SyntaxError'],
    ['is asynchronous', (x) => Promise.resolve(x), 'ERR_INVALID_ARGUMENT'],
    ['returns no tensor', () => 3, 'ERR_INVALID_ARGUMENT'],
    ['draws random numbers', (x) => dropout(x, 0.5, new RandomSource().next()), 'ERR_INVALID_ARGUMENT'],
    ['adds unlike shapes', (x) => add(x, slice(x, 1, 0, 3)), 'ERR_SHAPE'],
  ]
  if (onCuda) {
    impossible.push(
      ['uploads', (x) => [x, device.tensor([1])], 'ERR_INVALID_ARGUMENT'],
      ['waits', (x) => scale(x, x.dataSync()[0]), 'ERR_INVALID_ARGUMENT'],
    )
  }

  it.each(impossible)('a function that %s is refused, and the device works on', async (_, fn, code) => {
    const x = numbers(1, [5, 7])
    expect(await refusal(() => capture(fn, x))).toContain(code)
    const captured = await capturedSoftmax()
    expect(await own(captured.run(x)).data()).toEqual(await own(softmax(own(scale(x, 3)))).data())
  })

  it('a function that fails only while it is recorded is refused, and the device works on', async () => {
    const x = numbers(1, [5, 7])
    let calls = 0
    const failing = (input: Tensor): Tensor => {
      const y = scale(input, 2)
      calls += 1
      if (calls === 2) throw new Error('second call')
      return y
    }
    const captured = capture(failing, x)
    if (onCuda) await expect(captured).rejects.toThrow('second call')
    else own(await captured)
    expect(await own(scale(x, 2)).data()).toEqual((await x.data()).map((value) => 2 * value))
  })

  it('is refused inside a tape, and without inputs', async () => {
    const x = numbers(1, [2])
    using tape = new Tape()
    const inside = tape.record(() =>
      capture((input: Tensor) => scale(input, 2), x).catch((error: unknown) => error),
    )
    expect(((await inside) as SoftMoEError).code).toBe('ERR_INVALID_ARGUMENT')
    expect(await refusal(() => capture(() => x))).toBe('ERR_INVALID_ARGUMENT')
  })
})
