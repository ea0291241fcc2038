// What fuzzed calls are given: plausible values of each kind, and everything else that JavaScript can pass. Values are
// plain descriptions until a call, so that a failing case can be printed, shrunk and run again.
import fc from 'fast-check'
import { type Device, type DType, isTensor, type Tensor } from '../../lib/index.js'

/** Thrown by the getters and callbacks of fuzzed values; it may pass through the library as it is. */
export class OwnError extends Error {}

/** Kinds of arguments that signatures name. */
export type Kind = keyof typeof PLAUSIBLE

export type Description =
  | { readonly is: 'tensor'; readonly dtype: DType; readonly shape: readonly number[]; readonly fill: string }
  | { readonly is: 'disposed' }
  | { readonly is: 'value'; readonly value: unknown }
  | { readonly is: 'object'; readonly members: Readonly<Record<string, Description>>; readonly evil: string }
  | { readonly is: 'list'; readonly items: readonly Description[] }
  | { readonly is: 'elements'; readonly type: string; readonly length: number; readonly buffer: string }
  | { readonly is: 'odd'; readonly name: string }

const value = (...values: readonly unknown[]): fc.Arbitrary<Description> =>
  fc.constantFrom(...values).map((one) => ({ is: 'value', value: one }))

const extent = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom(2, 3) },
  { weight: 3, arbitrary: fc.constantFrom(0, 1, 4, 6, 17) },
)

const tensorOf = (dtypes: readonly DType[], least = 0, most = 4): fc.Arbitrary<Description> =>
  fc.oneof(
    {
      weight: 20,
      arbitrary: fc.record({
        is: fc.constant('tensor' as const),
        dtype: fc.constantFrom(...dtypes),
        shape: fc.array(extent, { minLength: least, maxLength: most }),
        fill: fc.constantFrom('small', 'small', 'small', 'zero', 'huge', 'nan'),
      }),
    },
    { weight: 1, arbitrary: fc.constant({ is: 'disposed' as const }) },
  )

const FLOATS: readonly DType[] = ['float32', 'float32', 'bfloat16']
const tensor = tensorOf([...FLOATS, 'int32'])
const number = value(
  0,
  1,
  2,
  3,
  -1,
  -2,
  0.5,
  -0,
  1e-6,
  7,
  100,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32,
  2 ** 53,
  1e308,
  NaN,
  Infinity,
  -Infinity,
)
const count = fc.oneof({ weight: 5, arbitrary: value(1, 2, 3, 4) }, { weight: 1, arbitrary: number })
// No number of rounds that takes hours: that is what would be asked for.
const iterations = value(1, 2, 3, 20, 0, -1, 0.5, NaN, -Infinity, 1e308)
const rate = fc.oneof({ weight: 3, arbitrary: value(0, 0.1, 0.5) }, { weight: 1, arbitrary: number })

const ODD = [
  'undefined',
  'null',
  'symbol',
  'bigint',
  'function',
  'throwing function',
  'date',
  'map',
  'bare object',
  'throwing proxy',
  'throwing conversion',
  'fake tensor',
  'tensor with a false handle',
  'thenable',
  'class',
  'array with holes',
  'throwing array',
  'promise',
  'error',
  'regular expression',
] as const
const odd: fc.Arbitrary<Description> = fc.oneof(
  fc.constantFrom(...ODD).map((name) => ({ is: 'odd' as const, name })),
  value(true, false, '', 'x', 'float32', '3'),
  number,
  fc.array(number, { maxLength: 4 }).map((items) => ({ is: 'list' as const, items })),
  fc.constant({ is: 'object' as const, members: {}, evil: 'no' }),
)

const list = (items: fc.Arbitrary<Description>, maxLength = 4): fc.Arbitrary<Description> =>
  fc.array(items, { maxLength }).map((all) => ({ is: 'list', items: all }))

/** An object with some of the members; now and then one is odd, or a getter that throws or disposes. */
function objectOf(members: Readonly<Record<string, fc.Arbitrary<Description>>>): fc.Arbitrary<Description> {
  const each = Object.fromEntries(
    Object.entries(members).map(([name, arbitrary]) => [
      name,
      fc.oneof({ weight: 12, arbitrary }, { weight: 1, arbitrary: odd }),
    ]),
  )
  return fc.record({
    is: fc.constant('object' as const),
    members: fc.oneof(
      { weight: 5, arbitrary: fc.record(each) },
      {
        weight: 1,
        arbitrary: fc.record(each, { requiredKeys: [] }) as fc.Arbitrary<Record<string, Description>>,
      },
    ),
    evil: fc.oneof(
      { weight: 12, arbitrary: fc.constant('no') },
      { weight: 1, arbitrary: fc.constantFrom('throws', 'disposes', 'changes') },
    ),
  })
}

const integers = tensorOf(['int32'], 1, 1)
const key = objectOf({ seed: value(0, 7, 2 ** 53 - 1), stream: value(0, 1, 12) })
const dtype = value('float32', 'bfloat16', 'int32', undefined)
const activation = value('none', 'gelu', 'gelu-erf', 'tanh', undefined)
const elements: fc.Arbitrary<Description> = fc.record({
  is: fc.constant('elements' as const),
  type: fc.constantFrom(
    'Float32Array',
    'Float32Array',
    'Int32Array',
    'Uint16Array',
    'Float64Array',
    'Uint8Array',
    'BigInt64Array',
    'DataView',
    'Array',
  ),
  length: fc.constantFrom(0, 1, 4, 6, 9, 1000),
  buffer: fc.constantFrom('plain', 'plain', 'offset', 'shared', 'detached', 'resized'),
})
const shape = list(fc.oneof({ weight: 6, arbitrary: value(2, 3) }, { weight: 1, arbitrary: number }))
const lists = objectOf({
  expertOffsets: integers,
  rowToken: integers,
  tokenOffsets: integers,
  tokenRows: integers,
})

export const PLAUSIBLE = {
  tensor,
  floats: tensorOf(FLOATS),
  matrix: tensorOf(FLOATS, 2, 3),
  scores: tensorOf(['float32'], 3, 3),
  ints: tensorOf(['int32'], 1, 3),
  maybeTensor: fc.oneof(tensor, value(null, undefined)),
  tensors: list(tensorOf(FLOATS, 1, 3), 3),
  shape,
  number,
  count,
  iterations,
  rate,
  axis: value(0, 1, 2, -1, undefined),
  key,
  dtype,
  floatType: value('float32', 'bfloat16', undefined),
  activation,
  priority: value('none', 'max', 'sum', undefined),
  elements,
  labels: fc.oneof(elements, tensorOf(['int32'], 1, 1)),
  lists,
  weights: objectOf({
    w1: tensorOf(FLOATS, 3, 3),
    b1: tensorOf(['float32'], 2, 2),
    w2: tensorOf(FLOATS, 3, 3),
    b2: tensorOf(['float32'], 2, 2),
  }),
  selection: objectOf({ expert: tensorOf(['int32'], 3, 3), position: tensorOf(['int32'], 3, 3) }),
  plan: objectOf({
    batch: count,
    tokens: count,
    numExperts: count,
    slotsPerExpert: count,
    dispatch: value('soft', 'uniform', 'identity'),
    combine: value('soft', 'uniform', 'identity'),
    logits: tensorOf(['float32'], 3, 3),
    dispatchLse: tensorOf(['float32'], 2, 2),
    combineLse: tensorOf(['float32'], 2, 2),
    mask: fc.oneof(value(null), tensorOf(['int32'], 2, 2)),
  }),
  tensorOptions: objectOf({ dtype, requiresGrad: value(true, false, undefined) }),
  fillOptions: objectOf({ dtype }),
  randomOptions: objectOf({ dtype, mean: number, scale: number, key }),
  linearOptions: objectOf({ activation, dtype }),
  matMulOptions: objectOf({ transposeA: value(true, false), transposeB: value(true, false), dtype }),
  expertsOptions: objectOf({ activation, dropoutRate: rate, key }),
  attentionOptions: objectOf({ scale: number, dropoutRate: rate, key }),
  lossOptions: objectOf({ labelSmoothing: rate }),
  logitsOptions: objectOf({
    numExperts: count,
    slotsPerExpert: count,
    normalize: value(true, false),
    mask: fc.oneof(value(null), integers),
    eps: rate,
  }),
  planOptions: objectOf({
    k: count,
    byRows: value(true, false),
    iterations,
    gamma: rate,
    learningRate: rate,
    tolerance: rate,
  }),
  mlpOptions: objectOf({
    dim: count,
    hiddenDim: count,
    activation,
    dropoutRate: rate,
    numExperts: count,
    slotsPerExpert: count,
    router: value('tokens-choice', 'experts-choice', 'soft', 'sinkhorn-tokens-choice', 'x'),
    inDim: count,
    outDim: count,
    numHeads: count,
    width: count,
    mlpDim: count,
    k: count,
    capacityFactor: rate,
    groupSize: count,
    shareInit: value(true, false),
    bias: value(true, false),
  }),
  routeOptions: objectOf({
    mask: fc.oneof(value(null), tensorOf(['int32'], 2, 2)),
    k: count,
    capacityFactor: rate,
    priority: value('none', 'max', 'sum', 'x'),
  }),
  optimizerOptions: objectOf({
    learningRate: rate,
    weightDecay: rate,
    clipNorm: rate,
    beta1: rate,
    beta2: rate,
    epsilon: rate,
    momentum: rate,
  }),
  scheduleOptions: objectOf({
    peak: number,
    totalSteps: count,
    warmupSteps: count,
    cooldownSteps: count,
    timescale: count,
  }),
  object: objectOf({}),
  function: fc.oneof(odd, fc.constant({ is: 'odd' as const, name: 'function' })),
  text: value('cpu', 'S/16', 'S/32', 'soft', 'tokens-choice', 'a/b'),
} as const satisfies Readonly<Record<string, fc.Arbitrary<Description>>>

/** Mostly a plausible value of the kind, at times anything. */
export const argumentOf = (kind: Kind): fc.Arbitrary<Description> =>
  fc.oneof(
    { weight: 9, arbitrary: PLAUSIBLE[kind] as fc.Arbitrary<Description> },
    { weight: 1, arbitrary: odd },
  )

/** Makes values of descriptions on a device; remembers the tensors. */
export class Workshop {
  readonly made: Tensor[] = []
  readonly #device: Device

  constructor(device: Device) {
    this.#device = device
  }

  make(description: Description): unknown {
    switch (description.is) {
      case 'value':
        return description.value
      case 'tensor':
        return this.#tensor(description)
      case 'disposed': {
        const tensor = this.#device.zeros([2])
        tensor.dispose()
        return tensor
      }
      case 'list':
        return description.items.map((item) => this.make(item))
      case 'object':
        return this.#object(description)
      case 'elements':
        return elementsOf(description)
      case 'odd':
        return this.#odd(description.name)
    }
  }

  /** Disposes of every tensor made here. */
  dispose(): void {
    for (const tensor of this.made) tensor.dispose()
    this.made.length = 0
  }

  #keep(tensor: Tensor): Tensor {
    this.made.push(tensor)
    return tensor
  }

  #tensor({ dtype, shape, fill }: Description & { readonly is: 'tensor' }): Tensor {
    if (fill === 'zero' || dtype !== 'int32') {
      const filling = { zero: 0, small: 0.5, huge: 3e38, nan: NaN }[fill] ?? 0
      return this.#keep(this.#device.full(shape, filling, { dtype }))
    }
    const size = shape.reduce((product, one) => product * one, 1)
    const small = Int32Array.from({ length: size }, (_, i) => i % 3)
    const wild = Int32Array.from({ length: size }, (_, i) => (i % 2 ? -1 : 2 ** 31 - 1) - i)
    return this.#keep(this.#device.tensor(fill === 'small' ? small : wild, shape))
  }

  #object({ members, evil }: Description & { readonly is: 'object' }): object {
    const result: Record<string, unknown> = {}
    for (const [name, member] of Object.entries(members)) result[name] = this.make(member)
    const first = Object.keys(result)[0]
    if (evil === 'no' || first === undefined) return result
    const own = result[first]
    let reads = 0
    Object.defineProperty(result, first, {
      enumerable: true,
      get: () => {
        reads += 1
        if (evil === 'throws') throw new OwnError('a getter')
        if (evil === 'disposes') for (const tensor of this.made) tensor.dispose()
        if (evil === 'changes' && reads > 1) return isTensor(own) ? reads : this.#keep(this.#device.ones([2]))
        return own
      },
    })
    return result
  }

  #odd(name: string): unknown {
    const fail = (): never => {
      throw new OwnError(name)
    }
    switch (name) {
      case 'undefined':
        return undefined
      case 'null':
        return null
      case 'symbol':
        return Symbol('odd')
      case 'bigint':
        return 3n
      case 'function':
        return () => undefined
      case 'throwing function':
        return fail
      case 'date':
        return new Date(0)
      case 'map':
        return new Map([['a', 1]])
      case 'bare object':
        return Object.create(null) as object
      case 'throwing proxy':
        return new Proxy({}, { get: fail, has: fail, ownKeys: fail, getPrototypeOf: fail })
      case 'throwing conversion':
        return { valueOf: fail, toString: fail, [Symbol.toPrimitive]: fail }
      case 'fake tensor':
        return { isTensor: true, shape: [2, 3], dtype: 'float32', device: this.#device, handle: {}, size: 6 }
      case 'tensor with a false handle': {
        const other = this.#keep(this.#device.zeros([2, 3]))
        return Object.create(other, { handle: { value: 12 }, shape: { value: [2, 3] } }) as object
      }
      case 'thenable':
        return { then: fail }
      case 'class':
        return class {
          readonly nothing = 0
        }
      case 'array with holes':
        return Object.assign(new Array<number>(3), { 0: 2, 2: 3 })
      case 'throwing array':
        return Object.defineProperty([1, 2], 0, { get: fail })
      case 'promise':
        return Promise.resolve(1)
      case 'error':
        return new OwnError('not thrown')
      default:
        return /x/
    }
  }
}

const CONSTRUCTORS = {
  Float32Array,
  Int32Array,
  Uint16Array,
  Float64Array,
  Uint8Array,
  BigInt64Array,
} as const

/** What ECMAScript 2024 adds to the type that this project compiles for. */
const ResizableBuffer = ArrayBuffer as unknown as new (
  bytes: number,
  options: { readonly maxByteLength: number },
) => ArrayBuffer & { resize(bytes: number): void }

function elementsOf({ type, length, buffer }: Description & { readonly is: 'elements' }): unknown {
  if (type === 'Array') return Array.from({ length }, (_, i) => i)
  const offset = buffer === 'offset' ? 8 : 0
  const bytes = 8 * length + offset
  const memory: ArrayBufferLike =
    buffer === 'shared'
      ? new SharedArrayBuffer(bytes)
      : buffer === 'resized'
        ? new ResizableBuffer(bytes, { maxByteLength: bytes + 64 })
        : new ArrayBuffer(bytes)
  const view =
    type === 'DataView'
      ? new DataView(memory, offset)
      : new CONSTRUCTORS[type as keyof typeof CONSTRUCTORS](memory as ArrayBuffer, offset, length)
  if (buffer === 'detached') structuredClone(memory, { transfer: [memory as ArrayBuffer] })
  if (buffer === 'resized')
    (memory as InstanceType<typeof ResizableBuffer>).resize(Math.floor(bytes / 2 / 8) * 8)
  return view
}
