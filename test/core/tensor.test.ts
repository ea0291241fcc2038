import { describe, expect, it } from 'vitest'
import { isTensor, linear, reshape, scale, SoftMoEError } from '../../lib/index.js'
import { Random } from '../../lib/core/random.js'
import { device, expectNoTensorsLeftBehind } from '../support/tensors.js'

expectNoTensorsLeftBehind()

describe('a tensor made from', () => {
  it.each([
    ['Float32Array', Float32Array.of(1.5, -2, 3), 'float32'],
    ['Float64Array', Float64Array.of(1.5, -2, 3), 'float32'],
    ['array of numbers', [1.5, -2, 3], 'float32'],
    ['Uint8Array', Uint8Array.of(0, 7, 255), 'float32'],
    ['Int32Array', Int32Array.of(-1, 0, 2_147_483_647), 'int32'],
  ] as const)('%s holds its elements', async (_, data, dtype) => {
    const tensor = device.tensor(data)
    expect(tensor.dtype).toBe(dtype)
    expect(tensor.shape).toEqual([3])
    expect([...(await tensor.data())]).toEqual([...data])
    tensor.dispose()
  })

  it('raw bfloat16 bits is widened when it is read', async () => {
    const tensor = device.tensor(Uint16Array.of(0x3f80, 0xc000, 0x7f80, 0x0001))
    expect(tensor.dtype).toBe('bfloat16')
    const values = await tensor.data()
    expect(values).toBeInstanceOf(Float32Array)
    expect([...values]).toEqual([1, -2, Infinity, 2 ** -133])
    tensor.dispose()
  })

  it('numbers is rounded to the dtype that is asked for', () => {
    const narrow = device.tensor([1 + 2 ** -9, 1 + 3 * 2 ** -9], [2], { dtype: 'bfloat16' })
    expect([...narrow.dataSync()]).toEqual([1, 1 + 2 ** -7])
    const whole = device.tensor([1, -7], [1, 2], { dtype: 'int32' })
    expect([...whole.dataSync()]).toEqual([1, -7])
    narrow.dispose()
    whole.dispose()
  })

  it('a view takes the view alone', () => {
    const tensor = device.tensor(new Float32Array(Float32Array.of(9, 1, 2, 9).buffer, 4, 2))
    expect([...tensor.dataSync()]).toEqual([1, 2])
    tensor.dispose()
  })

  it('nothing has no elements', async () => {
    const tensor = device.tensor([], [3, 0, 2])
    expect(tensor.size).toBe(0)
    expect((await tensor.data()).length).toBe(0)
    tensor.dispose()
  })

  it('one number may have no axes', async () => {
    const tensor = device.tensor([42], [])
    expect(tensor.shape).toEqual([])
    expect(await tensor.item()).toBe(42)
    expect(tensor.itemSync()).toBe(42)
    tensor.dispose()
  })

  it('an array that is changed afterwards keeps what it held, also behind queued work', async () => {
    const size = 1 << 18
    const big = device.ones([512, 512])
    let queued = big
    for (let i = 0; i < 4; i++) {
      const next = linear(queued, big)
      if (queued !== big) queued.dispose()
      queued = next
    }
    const array = new Float32Array(size).fill(1)
    const tensors = Array.from({ length: 5 }, (_, i) => {
      array.fill(i)
      return device.tensor(array)
    })
    array.fill(-1)
    for (const [i, tensor] of tensors.entries()) {
      expect((await tensor.data()).every((value) => value === i)).toBe(true)
      tensor.dispose()
    }
    queued.dispose()
    big.dispose()
  })
})

describe('filled tensors', () => {
  it('zeros, ones, full', () => {
    const tensors = [device.zeros([2]), device.ones([2]), device.full([2], -3, { dtype: 'int32' })]
    expect(tensors.map((tensor) => [...tensor.dataSync()])).toEqual([
      [0, 0],
      [1, 1],
      [-3, -3],
    ])
    for (const tensor of tensors) tensor.dispose()
  })

  it('draw the numbers that the generator in JavaScript draws', () => {
    const key = { seed: 2 ** 45 + 12_345, stream: 77 }
    const random = new Random(key.seed, key.stream)
    const count = 1003
    const uniform = device.uniform([count], { key })
    expect([...uniform.dataSync()]).toEqual(Array.from({ length: count }, (_, i) => random.uniform(i)))
    const normal = device.normal([count], { key, mean: 2, scale: 3 })
    normal.dataSync().forEach((value, i) => {
      expect(Math.abs(value - (2 + 3 * random.normal(i)))).toBeLessThan(2e-5)
    })
    const cut = device.truncatedNormal([count], { key })
    expect(cut.dataSync().every((value) => Math.abs(value) <= 2)).toBe(true)
    for (const tensor of [uniform, normal, cut]) tensor.dispose()
  })
})

describe('the life of a tensor', () => {
  it('ends once; its description in errors remains', () => {
    const tensor = device.zeros([2, 3])
    expect(tensor.shape).toEqual([2, 3])
    expect(tensor.toString()).toBe(`Tensor float32 [2, 3] on ${device.toString()}`)
    tensor.dispose()
    tensor.dispose()
    expect(tensor.disposed).toBe(true)
    expect(tensor.toString()).toBe('Tensor (disposed)')
    expect(() => tensor.dataSync()).toThrow(/\[2, 3\] was disposed/)
  })

  it('ends with its block', () => {
    const tensor = device.zeros([4])
    {
      using held = tensor
      expect(held.disposed).toBe(false)
    }
    expect(tensor.disposed).toBe(true)
  })

  it('may end while queued work still reads it', async () => {
    const x = device.ones([300, 300])
    const y = linear(x, x)
    const z = scale(y, 2)
    x.dispose()
    y.dispose()
    expect((await z.data())[0]).toBe(600)
    z.dispose()
  })

  it('of a view is its own', async () => {
    const x = device.tensor([1, 2, 3, 4])
    const { bytes } = device.memoryUsage()
    const view = reshape(x, [2, 2])
    expect(device.memoryUsage().bytes).toBe(bytes)
    x.dispose()
    expect([...(await view.data())]).toEqual([1, 2, 3, 4])
    view.dispose()
  })

  it('waits for nothing: results are there in the order of the calls', async () => {
    const x = device.ones([64])
    const results = Array.from({ length: 20 }, (_, i) => scale(x, i))
    const values = await Promise.all(results.map((tensor) => tensor.data()))
    expect(values.map((value) => value[63])).toEqual(results.map((_, i) => i))
    for (const tensor of [x, ...results]) tensor.dispose()
  })
})

it('isTensor tells tensors from everything else', () => {
  const tensor = device.zeros([1])
  expect([tensor, {}, null, undefined, 3, [tensor]].map((value) => isTensor(value))).toEqual([
    true,
    false,
    false,
    false,
    false,
    false,
  ])
  tensor.dispose()
})

it('item() of more than one element is refused', async () => {
  const tensor = device.zeros([2])
  await expect(tensor.item()).rejects.toMatchObject({ code: 'ERR_SHAPE' })
  expect(() => tensor.itemSync()).toThrow(SoftMoEError)
  tensor.dispose()
})
