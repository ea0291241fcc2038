import { SoftMoEError } from './core/errors.js'
import type { DType } from './core/dtype.js'
import { loadAddon } from './native-loader.js'
import packageRoot from './package-root.cjs'

declare const tensorHandle: unique symbol

/** The addon's hold on a tensor; only `lib/core/tensor.ts` keeps one. */
export interface TensorHandle {
  readonly [tensorHandle]: true
}

declare const graphHandle: unique symbol

/** The addon's hold on a captured CUDA graph; only `lib/core/capture.ts` keeps one. */
export interface GraphHandle {
  readonly [graphHandle]: true
}

type T = TensorHandle
type Optional = TensorHandle | null
type Shape = readonly number[]

/** A device as the addon knows it. */
export interface DeviceKey {
  readonly kind: 'cpu' | 'cuda'
  readonly index: number
}

/** Key of a stream of counter-based random numbers (Philox4x32-10). */
export interface RandomKey {
  readonly seed: number
  readonly stream: number
}

export type Activation = 'none' | 'gelu' | 'gelu-erf' | 'tanh'
export type Distribution = 'uniform' | 'normal' | 'truncated-normal'
export type RoutingWeights = 'soft' | 'uniform' | 'identity'
export type RoutingSide = 'dispatch' | 'combine'
export type RoutingPriority = 'none' | 'max' | 'sum'
export type RouterLossKind = 'importance' | 'load' | 'gshard' | 'z'
export type CrossEntropyKind = 'softmax' | 'sigmoid'
/** How frozen weights are stored. */
export type WeightFormat = 'float32' | 'bfloat16' | 'int8'

/** Operands of soft weights; see native/ops/soft_routing.h. */
export interface NativeSoftRouting {
  readonly batch: number
  readonly tokens: number
  readonly numExperts: number
  readonly slotsPerExpert: number
  readonly dispatch: RoutingWeights
  readonly combine: RoutingWeights
  readonly logits: Optional
  readonly dispatchLse: Optional
  readonly combineLse: Optional
  readonly mask: Optional
}

/** Row lists of a routing by index; see native/ops/sparse_routing.h. */
export interface NativeRowLists {
  readonly expertOffsets: T
  readonly rowToken: T
  readonly tokenOffsets: T
  readonly tokenRows: T
}

/** Bytes and tensors of one device. */
export interface MemoryUsage {
  /** Live tensors; views of one storage count once. */
  readonly tensors: number
  /** Bytes of live tensors. */
  readonly bytes: number
  /** Bytes kept for reuse. */
  readonly cachedBytes: number
  /** Largest `bytes` so far. */
  readonly peakBytes: number
  /** How often memory was asked of the system or the driver. */
  readonly systemAllocations: number
}

/** What the native addon exports; operations mirror native/ops/*.h argument by argument. */
export interface NativeAddon {
  /** The package version that the addon was built from. */
  readonly version: string
  /** `cmake` (CPU, and CUDA where nvcc was found) or `node-gyp` (CPU only). */
  readonly builtBy: string

  setErrorClass(constructor: typeof SoftMoEError): void
  openDevice(device: DeviceKey): string
  uploadTensor(device: DeviceKey, shape: Shape, dtype: DType, data: NodeJS.TypedArray): T
  download(tensor: T): Promise<Float32Array | Int32Array | Uint16Array>
  downloadSync(tensor: T): Float32Array | Int32Array | Uint16Array
  describe(tensor: T): [DType, ...number[]]
  dispose(tensor: T): void
  synchronize(device: DeviceKey): Promise<void>
  synchronizeSync(device: DeviceKey): void
  memoryUsage(device: DeviceKey): MemoryUsage
  emptyCache(device: DeviceKey): void
  beginCapture(device: DeviceKey): void
  endCapture(device: DeviceKey): GraphHandle
  replay(graph: GraphHandle): void
  disposeGraph(graph: GraphHandle): void
  setThreads(threads: number): void

  full(device: DeviceKey, shape: Shape, dtype: DType, value: number): T
  random(
    device: DeviceKey,
    shape: Shape,
    dtype: DType,
    distribution: Distribution,
    mean: number,
    scale: number,
    key: RandomKey,
  ): T
  reshape(x: T, shape: Shape): T
  cast(x: T, dtype: DType): T
  add(a: T, b: T, alpha: number): T
  addInPlace(a: T, b: T): void
  copyInto(target: T, source: T): void
  fillInPlace(x: T, value: number): void
  multiply(a: T, b: T): T
  scale(x: T, factor: number, deviceFactor: Optional): T
  slice(x: T, axis: number, start: number, end: number): T
  sliceBackward(dy: T, shape: Shape, axis: number, start: number): T
  concat(parts: readonly T[], axis: number): T
  sum(x: T, axis: number, scale: number, dtype: DType): T
  sumAll(x: T, scale: number): T
  broadcast(x: T, axis: number, count: number, scale: number): T
  broadcastScalar(x: T, shape: Shape, dtype: DType, scale: number): T
  activate(x: T, activation: Activation): T
  activateBackward(x: T, dy: T, activation: Activation): T
  dropout(x: T, rate: number, key: RandomKey): T
  transpose(x: T): T
  patchify(images: T, patch: number, dtype: DType): T
  unpatchify(patches: T, shape: Shape, patch: number, dtype: DType): T
  countNonFinite(x: T): T

  matmul(a: T, b: T, transposeA: boolean, transposeB: boolean, alpha: number, dtype: DType): T
  linear(x: T, w: T, bias: Optional, activation: Activation, savePre: boolean, dtype: DType): [T, Optional]
  linearBackwardInput(dy: T, w: T): T
  linearBackwardWeight(x: T, dy: T, withBias: boolean): [T, Optional]

  experts(
    x: T,
    offsets: Optional,
    gather: Optional,
    w1: T,
    b1: T,
    w2: T,
    b2: T,
    activation: Activation,
    dropoutRate: number,
    key: RandomKey,
    savePre: boolean,
  ): [T, Optional]
  expertsBackward(
    x: T,
    offsets: Optional,
    gather: Optional,
    w1: T,
    w2: T,
    pre: T,
    dy: T,
    activation: Activation,
    dropoutRate: number,
    key: RandomKey,
  ): [T, T, T, T, T]
  freezeExperts(w1: T, b1: T, w2: T, b2: T, format: WeightFormat): T
  frozenExperts(
    x: T,
    offsets: Optional,
    gather: Optional,
    frozen: T,
    format: WeightFormat,
    numExperts: number,
    dim: number,
    hidden: number,
    out: number,
    activation: Activation,
  ): T

  layerNorm(
    x: T,
    scale: Optional,
    bias: Optional,
    eps: number,
    saveStatistics: boolean,
  ): [T, Optional, Optional]
  layerNormBackward(
    x: T,
    scale: Optional,
    mean: T,
    rstd: T,
    dy: T,
    withBias: boolean,
  ): [T, Optional, Optional]
  l2Normalize(x: T, eps: number): [T, T]
  l2NormalizeBackward(x: T, inverseNorm: T, dy: T): T
  softmax(x: T): T
  softmaxBackward(y: T, dy: T): T

  attention(
    q: T,
    k: T,
    v: T,
    scale: number,
    dropoutRate: number,
    key: RandomKey,
    saveStatistics: boolean,
  ): [T, Optional]
  attentionBackward(
    q: T,
    k: T,
    v: T,
    o: T,
    logSumExp: T,
    dO: T,
    scale: number,
    dropoutRate: number,
    key: RandomKey,
  ): [T, T, T]

  crossEntropy(logits: T, labels: T, kind: CrossEntropyKind, smoothing: number): T
  crossEntropyBackward(logits: T, labels: T, dlosses: T, kind: CrossEntropyKind, smoothing: number): T
  argmax(x: T): T

  adamwStep(
    values: readonly T[],
    gradients: readonly T[],
    firstMoments: readonly T[],
    secondMoments: readonly T[],
    copies: readonly Optional[],
    learningRates: readonly number[],
    weightDecays: readonly number[],
    beta1: number,
    beta2: number,
    eps: number,
    step: number,
    gradientScale: Optional,
  ): void
  sgdStep(
    values: readonly T[],
    gradients: readonly T[],
    momenta: readonly T[],
    copies: readonly Optional[],
    learningRates: readonly number[],
    weightDecays: readonly number[],
    momentum: number,
    nesterov: boolean,
    gradientScale: Optional,
  ): void
  globalNorm(tensors: readonly T[], maxNorm: number): [T, T]

  softLogits(
    x: T,
    phi: T,
    scale: T,
    mask: Optional,
    numExperts: number,
    eps: number,
    epsInsideRoot: boolean,
    noiseStd: number,
    key: RandomKey,
  ): [T, T, T, T, T]
  tokensToSlots(routing: NativeSoftRouting, side: RoutingSide, x: T): T
  slotsToTokens(routing: NativeSoftRouting, side: RoutingSide, slots: T): T
  softWeights(routing: NativeSoftRouting, side: RoutingSide, device: DeviceKey): T
  softLogitsGradient(
    routing: NativeSoftRouting,
    x: Optional,
    slotsIn: Optional,
    dslotsIn: Optional,
    dy: Optional,
    y: Optional,
    slotsOut: Optional,
  ): T
  softLogitsBackward(
    x: T,
    phi: T,
    scale: T,
    tokenNorm: T,
    slotNorm: T,
    dlogits: T,
    numExperts: number,
    eps: number,
    epsInsideRoot: boolean,
    dxDirect: Optional,
  ): [T, T, T]

  tokensChoice(scores: T, k: number, priority: RoutingPriority): [T, T]
  expertsChoice(scores: T, capacity: number): T
  rowsFromTokensChoice(expert: T, position: T, experts: number, capacity: number): [T, T, T, T]
  rowsFromExpertsChoice(token: T, tokens: number): [T, T, T, T]
  gatherGates(gates: T, lists: NativeRowLists): T
  gatherGatesBackward(drowGate: T, gatesShape: Shape, lists: NativeRowLists): T
  normalizeSelected(gates: T, expert: T): T
  normalizeSelectedBackward(gates: T, expert: T, dy: T): T
  combineRows(rows: T, rowGate: Optional, lists: NativeRowLists): T
  combineRowsBackward(rows: T, rowGate: T, dy: T, lists: NativeRowLists): [T, T]
  routerLoss(loss: RouterLossKind, a: T, b: Optional, k: number, sigma: number): T
  routerLossBackward(loss: RouterLossKind, a: T, b: Optional, k: number, sigma: number, dlosses: T): T
  sinkhornPlan(logits: T, iterations: number): T
  sinkhornPlanBackward(plan: T, dplan: T): T
  sparsePlan(similarity: T, k: number, byRows: boolean, iterations: number): T
}

const loaded = loadAddon(packageRoot)

/** The loaded addon. */
export const native = loaded.addon as NativeAddon

native.setErrorClass(SoftMoEError)

/** The file it was loaded from. */
export const nativeFile: string = loaded.file

/** The version of this package. */
export const version: string = loaded.version
