// Every refusal has its code and one sentence that names the operand and says what to do. Nothing crashes.
import { describe, expect, it } from 'vitest'
import {
  activate,
  add,
  argmax,
  broadcast,
  cast,
  concat,
  crossEntropy,
  dropout,
  layerNorm,
  linear,
  mean,
  multiply,
  openDevice,
  patchify,
  reshape,
  scale,
  setThreads,
  sincos2d,
  slice,
  softmax,
  sum,
  Tape,
  type Tensor,
  transpose,
} from '../../lib/index.js'
import { native } from '../../lib/native.js'
import { anything, disposed, expectRefusal, float, narrow, refuse, whole } from '../support/refusal.js'
import { libraryUrl, runModule } from '../support/child.js'
import { device } from '../support/tensors.js'

it('a grid of positions without a width is empty, however high', () => {
  expect(sincos2d(2 ** 53 - 1, 0, 4)).toEqual(new Float32Array())
})

describe('making tensors', () => {
  refuse([
    ['negative extent', () => float(2, -1), 'ERR_SHAPE', /negative extent -1/],
    ['fractional extent', () => float(2.5), 'ERR_INVALID_ARGUMENT', /2\.5.*whole number/],
    ['NaN extent', () => float(NaN), 'ERR_INVALID_ARGUMENT', /nan.*whole number/i],
    ['infinite extent', () => float(Infinity), 'ERR_INVALID_ARGUMENT', /inf.*whole number/i],
    ['more than 2^31 elements', () => float(2 ** 16, 2 ** 16), 'ERR_SHAPE', /more than 2147483647 elements/],
    ['an overflowing product', () => float(2 ** 40, 2 ** 40), 'ERR_SHAPE', /more than 2147483647 elements/],
    ['too many axes', () => float(...new Array<number>(20).fill(1)), 'ERR_SHAPE', /rank 20/],
    ['a shape that is none', () => device.zeros(anything('big')), 'ERR_INVALID_ARGUMENT', /'big'.*array/],
    ['a shape of strings', () => device.zeros(anything(['2'])), 'ERR_INVALID_ARGUMENT', /'2'.*number/],
    [
      'an unknown dtype',
      () => device.zeros([1], { dtype: anything('float64') }),
      'ERR_INVALID_ARGUMENT',
      /'float64'/,
    ],
    ['a value that is none', () => device.full([1], anything('3')), 'ERR_INVALID_ARGUMENT', /'3'.*number/],
    ['too few elements', () => device.tensor([1, 2], [3]), 'ERR_SHAPE', /2 elements.*3/],
    ['too many elements', () => device.tensor([1, 2], [1]), 'ERR_SHAPE', /2 elements.*1/],
    ['elements that are none', () => device.tensor(anything(7)), 'ERR_INVALID_ARGUMENT', /number/],
    ['elements that are null', () => device.tensor(anything(null)), 'ERR_INVALID_ARGUMENT', /null/],
    [
      'a DataView',
      () => device.tensor(anything(new DataView(new ArrayBuffer(8)))),
      'ERR_INVALID_ARGUMENT',
      /typed array/,
    ],
    [
      'an ArrayBuffer',
      () => device.tensor(anything(new ArrayBuffer(8))),
      'ERR_INVALID_ARGUMENT',
      /typed array/,
    ],
    [
      'random whole numbers',
      () => native.random(device, [2], 'int32', 'uniform', 0, 1, { seed: 1, stream: 1 }),
      'ERR_INVALID_ARGUMENT',
      /int32.*float32 or bfloat16/,
    ],
    [
      'a random mean of NaN',
      () => device.normal([2], { key: { seed: 1, stream: 1 }, mean: NaN }),
      'ERR_INVALID_ARGUMENT',
      /mean/,
    ],
    ['no key', () => device.normal([2], anything({})), 'ERR_INVALID_ARGUMENT', /object/],
    [
      'half a key',
      () => device.normal([2], { key: anything({ seed: 1 }) }),
      'ERR_INVALID_ARGUMENT',
      /stream.*undefined/,
    ],
    [
      'a fractional seed',
      () => device.normal([2], { key: { seed: 1.5, stream: 1 } }),
      'ERR_INVALID_ARGUMENT',
      /seed.*1\.5/,
    ],
  ])

  it('a detached ArrayBuffer', () => {
    const array = Float32Array.of(1, 2, 3)
    structuredClone(array.buffer, { transfer: [array.buffer] })
    expectRefusal(() => device.tensor(array, [3]), 'ERR_SHAPE', /transferred away/)
  })

  it('a SharedArrayBuffer is read like any other memory', () => {
    const shared = new Float32Array(new SharedArrayBuffer(12))
    shared.set([1, 2, 3])
    const tensor = device.tensor(shared, [3])
    shared.fill(9)
    expect([...tensor.dataSync()]).toEqual([1, 2, 3])
    tensor.dispose()
  })
})

describe('opening devices', () => {
  refuse([
    ['an unknown kind', () => openDevice(anything('tpu')), 'ERR_INVALID_ARGUMENT', /tpu/],
    ['a negative index', () => openDevice('cuda', -1), 'ERR_INVALID_ARGUMENT', /-1|index/],
    ['no threads', () => setThreads(0), 'ERR_INVALID_ARGUMENT', /threads is 0/],
    ['a fraction of a thread', () => setThreads(1.5), 'ERR_INVALID_ARGUMENT', /whole number/],
  ])
})

describe('operands', () => {
  refuse([
    ['undefined', () => add(anything(undefined), float(1)), 'ERR_INVALID_ARGUMENT', /undefined.*Tensor/],
    ['null', () => multiply(float(1), anything(null)), 'ERR_INVALID_ARGUMENT', /null.*Tensor/],
    ['a number', () => softmax(anything(3)), 'ERR_INVALID_ARGUMENT', /number.*Tensor/],
    ['an array', () => linear(float(1, 2), anything([1, 2])), 'ERR_INVALID_ARGUMENT', /object.*Tensor/],
    ['a handle that is none', () => native.softmax(anything({})), 'ERR_INVALID_ARGUMENT', /tensor/],
    ['a disposed tensor', () => add(disposed(), float(1)), 'ERR_DISPOSED', /disposed/],
    ['a disposed second operand', () => multiply(float(2, 3), disposed()), 'ERR_DISPOSED', /disposed/],
    ['a disposed optional operand', () => layerNorm(float(2, 3), disposed()), 'ERR_DISPOSED', /disposed/],
    ['a disposed part', () => concat([float(2, 3), disposed()], 0), 'ERR_DISPOSED', /disposed/],
  ])
})

describe('devices', () => {
  it.runIf(device.kind === 'cuda')('two of them in one operation', () => {
    const there = openDevice('cpu').ones([2])
    const here = device.ones([2])
    expectRefusal(() => add(here, there), 'ERR_DEVICE', /cuda:0 and cpu:0.*same device/)
    expectRefusal(() => concat([there, here], 0), 'ERR_DEVICE', /cpu:0 and cuda:0/)
    expectRefusal(() => crossEntropy(float(2, 3), there), 'ERR_DEVICE', /same device/)
  })

  it('that are not there', async () => {
    const result = await runModule(
      `const { openDevice } = await import(${JSON.stringify(libraryUrl)})
       try { openDevice('cuda') } catch (error) { console.log(error.name, error.code) }
       console.log(openDevice().kind)`,
      { env: { SOFTMOE_CUDA_DRIVER: '/nowhere/libcuda.so' } },
    )
    expect(result).toMatchObject({ code: 0, stderr: '' })
    expect(result.stdout).toMatch(/^SoftMoEError ERR_(NO_DEVICE|DRIVER)\ncpu\n$/)
  })
})

describe('elementwise operations', () => {
  refuse([
    ['add: b is not the end of a', () => add(float(2, 3), float(2)), 'ERR_SHAPE', /b has shape \[2\]/],
    ['add: integers', () => add(whole(2), whole(2)), 'ERR_DTYPE', /a is int32.*cast/],
    [
      'add: a factor that is none',
      () => add(float(2), float(2), anything('x')),
      'ERR_INVALID_ARGUMENT',
      /'x'/,
    ],
    ['multiply: other shape', () => multiply(float(2, 3), float(3, 2)), 'ERR_SHAPE', /b has shape \[3, 2\]/],
    [
      'multiply: other dtype',
      () => multiply(float(2), narrow(2)),
      'ERR_DTYPE',
      /bfloat16.*float32|float32.*bfloat16/,
    ],
    [
      'scale: a factor of two elements',
      () => scale(float(2), float(2)),
      'ERR_INVALID_ARGUMENT',
      /factor.*scalar/,
    ],
    ['scale: a bfloat16 factor', () => scale(float(2), narrow(1)), 'ERR_DTYPE', /factor is bfloat16/],
    ['reshape: other count', () => reshape(float(2, 3), [5]), 'ERR_SHAPE', /6 elements.*5/],
    ['slice: no such axis', () => slice(float(2, 3), 2, 0, 1), 'ERR_INVALID_ARGUMENT', /axis 2/],
    ['slice: beyond the end', () => slice(float(2, 3), 1, 0, 4), 'ERR_INVALID_ARGUMENT', /0 to 4.*extent 3/],
    ['slice: backwards', () => slice(float(2, 3), 1, 2, 1), 'ERR_INVALID_ARGUMENT', /2 to 1/],
    ['slice: a negative start', () => slice(float(2, 3), 1, -1, 1), 'ERR_INVALID_ARGUMENT', /-1 to 1/],
    ['concat: nothing', () => concat([], 0), 'ERR_INVALID_ARGUMENT', /at least one/],
    [
      'concat: other extents',
      () => concat([float(2, 3), float(2, 4)], 0),
      'ERR_SHAPE',
      /\[2, 3\] and \[2, 4\]/,
    ],
    ['concat: other dtypes', () => concat([float(2), narrow(2)], 0), 'ERR_DTYPE', /bfloat16/],
    ['sum: no such axis', () => sum(float(2), 1), 'ERR_INVALID_ARGUMENT', /axis 1/],
    ['mean: a negative axis', () => mean(float(2), -1), 'ERR_INVALID_ARGUMENT', /axis -1/],
    ['broadcast: a negative count', () => broadcast(float(2), 0, -3), 'ERR_INVALID_ARGUMENT', /count is -3/],
    [
      'broadcast: too large',
      () => broadcast(float(1 << 16), 0, 1 << 16),
      'ERR_SHAPE',
      /more than 2147483647/,
    ],
    [
      'activate: unknown',
      () => activate(float(2), anything('relu')),
      'ERR_INVALID_ARGUMENT',
      /'relu'.*'gelu'/,
    ],
    [
      'dropout: a rate of 1',
      () => dropout(float(2), 1, { seed: 0, stream: 0 }),
      'ERR_INVALID_ARGUMENT',
      /rate/,
    ],
    [
      'dropout: a rate of NaN',
      () => dropout(float(2), NaN, { seed: 0, stream: 0 }),
      'ERR_INVALID_ARGUMENT',
      /rate/,
    ],
    ['transpose: one axis', () => transpose(float(2)), 'ERR_SHAPE', /at least rank 2/],
    ['cast: unknown', () => cast(float(2), anything('float16')), 'ERR_INVALID_ARGUMENT', /'float16'/],
    [
      'patchify: patches that do not tile',
      () => patchify(float(1, 8, 8, 3), 3),
      'ERR_INVALID_ARGUMENT',
      /3 pixels.*8 x 8/,
    ],
    ['patchify: no batch', () => patchify(float(8, 8, 3), 4), 'ERR_SHAPE', /images.*rank 4/],
    ['patchify: patches of 0', () => patchify(float(1, 8, 8, 3), 0), 'ERR_INVALID_ARGUMENT', /0 pixels/],
    ['argmax: no columns', () => argmax(float(2, 0)), 'ERR_INVALID_ARGUMENT', /column/],
  ])
})

describe('tapes', () => {
  const x = device.tensor([1, 2], [2], { requiresGrad: true })
  const recorded = (): [Tape, Tensor] => {
    const tape = new Tape()
    return [tape, tape.record(() => sum(x))]
  }
  refuse([
    [
      'backward twice',
      () => {
        const [tape, loss] = recorded()
        tape.backward(loss)
        tape.backward(loss)
      },
      'ERR_BACKWARD_TWICE',
      /already.*record the step again/,
    ],
    [
      'record twice',
      () => {
        const [tape] = recorded()
        tape.record(() => sum(x))
      },
      'ERR_BACKWARD_TWICE',
      /new Tape/,
    ],
    ['a nested tape', () => new Tape().record(() => recorded()), 'ERR_INVALID_ARGUMENT', /cannot be nested/],
    [
      'a loss from elsewhere',
      () => {
        const [tape] = recorded()
        tape.backward(sum(x))
      },
      'ERR_NOT_RECORDED',
      /record\(\)/,
    ],
    [
      'a loss without parameters',
      () => {
        const tape = new Tape()
        tape.backward(tape.record(() => sum(float(2))))
      },
      'ERR_NOT_RECORDED',
      /depends on no parameter/,
    ],
    ['a tape that recorded nothing', () => new Tape().backward(float()), 'ERR_NOT_RECORDED', /record\(\)/],
    [
      'a loss of several elements',
      () => {
        const tape = new Tape()
        tape.backward(tape.record(() => scale(x, 2)))
      },
      'ERR_SHAPE',
      /\[2\].*mean\(\)/,
    ],
    [
      'a loss that is none',
      () => {
        const [tape] = recorded()
        tape.backward(anything(3))
      },
      'ERR_NOT_RECORDED',
      /record/,
    ],
    [
      'an operand that was disposed of before backward',
      () => {
        const tape = new Tape()
        const y = device.tensor([3, 4], [2], { requiresGrad: true })
        const loss = tape.record(() => sum(multiply(x, y)))
        y.dispose()
        tape.backward(loss)
      },
      'ERR_DISPOSED',
      /disposed/,
    ],
    [
      'a disposed tape',
      () => {
        const [tape, loss] = recorded()
        tape.dispose()
        tape.backward(loss)
      },
      'ERR_BACKWARD_TWICE',
      /freed|already/,
    ],
  ])
})
