/** A layer that softmoe and a peer compute with the same weights and input. */
import { closeSync, existsSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import {
  type Device,
  type FloatDType,
  mean,
  Mlp,
  multiply,
  noGrad,
  RandomSource,
  SoftMoE,
  Tape,
  type Tensor,
  type WeightFormat,
} from '../../lib/index.js'
import { BACKBONES, type BackboneName, type ExpertShape, type Pass } from '../backbones.js'

/** What is computed. */
export interface Problem {
  readonly backbone: BackboneName
  /** Null: the dense MLP. */
  readonly experts: ExpertShape | null
  /** Format of our frozen weights, or null: the float32 parameters and, in bfloat16, their copies. */
  readonly weights: WeightFormat | null
  readonly batch: number
  readonly dtype: FloatDType
  readonly pass: Pass
  readonly threads: number
}

/** Every tensor of the weight file starts at a multiple of this. */
const ALIGNMENT = 4096
/** Logits that differ enough for the softmax weights to matter in the check. */
const LOGIT_SCALE = 10

/** The layer, its input and the files that the peers read. */
export class ProblemRun {
  readonly #problem: Problem
  readonly #device: Device
  readonly #layer: Mlp | SoftMoE
  readonly #x: Tensor

  constructor(device: Device, problem: Problem) {
    this.#problem = problem
    this.#device = device
    const { dim, hiddenDim, tokens } = BACKBONES[problem.backbone]
    const context = { device, dtype: problem.dtype, random: new RandomSource(1) }
    this.#layer =
      problem.experts === null
        ? new Mlp({ dim, hiddenDim }, context)
        : new SoftMoE({ dim, hiddenDim, ...problem.experts, scaleInit: LOGIT_SCALE }, context)
    // Biases start near 0, where no check would miss them.
    const { first, second } = this.#experts
    for (const [stream, { bias }] of [first, second].entries()) {
      const values = device.normal(bias.shape, { key: { seed: 2, stream }, scale: 0.5 })
      bias.set(values.dataSync())
      values.dispose()
    }
    const shape = [problem.batch, tokens, dim]
    const x = device.normal(shape, { key: { seed: 1, stream: 0 } })
    this.#x = device.tensor(x.dataSync(), shape, {
      dtype: problem.dtype,
      requiresGrad: problem.pass !== 'forward',
    })
    x.dispose()
    if (problem.pass === 'forward') this.#layer.eval()
  }

  get dtype(): FloatDType {
    return this.#problem.dtype
  }

  get #experts(): Pick<Mlp, 'first' | 'second'> {
    return this.#layer instanceof Mlp ? this.#layer : this.#layer.experts
  }

  /** Leaves our layer with its frozen weights alone, if the problem has them; it is written before. */
  freeze(): void {
    const { weights } = this.#problem
    if (weights === null) return
    const mlp = this.#layer instanceof SoftMoE ? this.#layer.experts : this.#layer
    mlp.freeze({ format: weights, keepMasters: false })
    this.#device.emptyCache()
  }

  /** Queues one run. */
  run(): void {
    if (this.#problem.pass === 'forward') {
      noGrad(() => this.#layer.forward(this.#x)).dispose()
      return
    }
    this.#backward().dispose()
    this.#dropGradients()
  }

  #backward(): Tensor {
    const tape = new Tape()
    const loss = tape.record(() => {
      const y = this.#layer.forward(this.#x)
      return mean(multiply(y, y))
    })
    tape.backward(loss)
    return loss
  }

  #dropGradients(): void {
    this.#layer.zeroGrad()
    this.#x.grad?.dispose()
    this.#x.grad = null
  }

  /** Output and, after a backward, the gradients of the input and of the first bias. */
  async outputs(): Promise<Float32Array[]> {
    const y = noGrad(() => this.#layer.forward(this.#x))
    const tensors = [y]
    if (this.#problem.pass !== 'forward') {
      this.#backward().dispose()
      const gradients = [this.#x.grad, this.#experts.first.bias.grad]
      tensors.push(...gradients.filter((gradient) => gradient !== null))
    }
    const values = await Promise.all(tensors.map((tensor) => tensor.data()))
    y.dispose()
    this.#dropGradients()
    return values as Float32Array[]
  }

  /** Output of the experts alone, whose rows are the first elements of the input. */
  async expertOutputs(): Promise<Float32Array[]> {
    if (!(this.#layer instanceof SoftMoE)) return this.outputs()
    const { batch, experts } = this.#problem
    const { numExperts = 1, slotsPerExpert = 1 } = experts ?? {}
    const { dim } = BACKBONES[this.#problem.backbone]
    const shape = [numExperts, batch * slotsPerExpert, dim]
    const values = (await this.#x.data()).slice(0, numExperts * batch * slotsPerExpert * dim)
    const rows = this.#device.tensor(values, shape, { dtype: this.#problem.dtype })
    const layer = this.#layer
    const y = noGrad(() => layer.experts.forward(rows))
    const result = await y.data()
    rows.dispose()
    y.dispose()
    return [result as Float32Array]
  }

  /** Writes weights (once for each layer) and input, as worker.mjs reads them. @returns the worker's arguments */
  async write(folder: string): Promise<string[]> {
    const { backbone, experts, batch, dtype, pass, threads } = this.#problem
    const { dim, hiddenDim, tokens } = BACKBONES[backbone]
    const kind = experts === null ? 'mlp' : 'soft'
    const { numExperts, slotsPerExpert } = experts ?? { numExperts: 1, slotsPerExpert: 1 }
    const weights = join(folder, `${kind}-${dim}-${numExperts}x${slotsPerExpert}.bin`)
    if (!existsSync(weights)) {
      const { first, second } = this.#experts
      const parameters = [first.kernel, first.bias, second.kernel, second.bias]
      if (this.#layer instanceof SoftMoE) parameters.push(this.#layer.router.mu, this.#layer.router.scale)
      const file = openSync(weights, 'w')
      for (const { value } of parameters) writePadded(file, (await value.data()) as Float32Array)
      closeSync(file)
    }
    const input = join(folder, 'input.bin')
    const file = openSync(input, 'w')
    writePadded(file, (await this.#x.data()) as Float32Array)
    closeSync(file)
    return Object.entries({
      kind,
      dtype,
      pass,
      weights,
      input,
      batch,
      tokens,
      dim,
      hidden: hiddenDim,
      experts: numExperts,
      slots: slotsPerExpert,
      threads,
    }).map(([name, value]) => `${name}=${value}`)
  }

  dispose(): void {
    this.#layer.dispose()
    this.#x.dispose()
  }
}

function writePadded(file: number, values: Float32Array): void {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  // A single write takes less than 2 GiB.
  const chunk = 2 ** 30
  for (let at = 0; at < bytes.length; at += chunk) {
    for (let end = Math.min(at + chunk, bytes.length), from = at; from < end;) {
      from += writeSync(file, bytes, from, end - from)
    }
  }
  writeSync(file, new Uint8Array((ALIGNMENT - (bytes.length % ALIGNMENT)) % ALIGNMENT))
}
