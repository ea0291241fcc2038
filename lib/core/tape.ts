/**
 * Reverse-mode differentiation. Under a recording tape every operation leaves a node with its gradient function;
 * `backward` runs them in reverse, frees each intermediate as soon as nobody needs it any more, and leaves gradients
 * in the leaves (parameters and tensors made with `requiresGrad`).
 */
import { requireArray, requireFunction } from './arguments.js'
import { native } from '../native.js'
import { SoftMoEError } from './errors.js'
import { type Collector, visitTensors, withCollector } from './lifetime.js'
import { Tensor } from './tensor.js'

/**
 * Gradients of an operation. Gets the gradient of each output (null: the output does not matter to the loss) and
 * whether each input's gradient is wanted; returns the gradient of each input (null: none).
 */
export type GradientFunction = (
  outputGradients: readonly (Tensor | null)[],
  wanted: readonly boolean[],
) => readonly (Tensor | null)[]

interface Node {
  readonly name: string
  readonly inputs: readonly (Tensor | null)[]
  readonly outputs: readonly Tensor[]
  readonly saved: readonly Tensor[]
  readonly gradient: GradientFunction
}

let recordingTape: Tape | null = null
let detectAnomaly = false

/** Whether an operation on these inputs has to keep what its gradient needs. */
export function isRecorded(...inputs: readonly (Tensor | null | undefined)[]): boolean {
  const tape = recordingTape
  return tape !== null && inputs.some((input) => input !== null && input !== undefined && tape.tracks(input))
}

/**
 * Records an operation that was just computed. Does nothing unless a tape records and an input matters to it.
 *
 * @param saved - tensors that only the gradient function uses; freed with the node
 */
export function recordOperation(
  name: string,
  inputs: readonly (Tensor | null | undefined)[],
  outputs: readonly Tensor[],
  saved: readonly (Tensor | null)[],
  gradient: GradientFunction,
): void {
  if (detectAnomaly) {
    for (const output of outputs) requireFinite(output, `the output of ${name}`, inputs)
  }
  if (!isRecorded(...inputs)) return
  recordingTape?.push({
    name,
    inputs: inputs.map((input) => input ?? null),
    outputs,
    saved: saved.filter((tensor) => tensor !== null),
    gradient,
  })
}

function withRecordingTape<T>(tape: Tape | null, fn: () => T): T {
  const outer = recordingTape
  recordingTape = tape
  try {
    return fn()
  } finally {
    recordingTape = outer
  }
}

/** Runs `fn` without recording. */
export function noGrad<T>(fn: () => T): T {
  requireFunction('what noGrad() runs', fn)
  return withRecordingTape(null, fn)
}

/** Whether operations are being recorded. */
export function isRecording(): boolean {
  return recordingTape !== null
}

/**
 * Checks the result of every operation and of every gradient for NaN and infinity, waiting for the device each time
 * (slow; off, it costs the test of a flag). The operation then throws `ERR_NON_FINITE` with its name, the first that makes one,
 * and says which operands held NaN or infinity already: data or parameters, as nothing before made them.
 */
export function setDetectAnomaly(on: boolean): void {
  detectAnomaly = on
}

function countNonFinite(tensor: Tensor): number {
  if (tensor.dtype === 'int32') return 0
  const count = native.countNonFinite(tensor.handle)
  try {
    return native.downloadSync(count)[0] ?? 0
  } finally {
    native.dispose(count)
  }
}

function requireFinite(
  tensor: Tensor,
  what: string,
  operands: readonly (Tensor | null | undefined)[] = [],
): void {
  const found = countNonFinite(tensor)
  if (found === 0) return
  const origins = operands.flatMap((operand, i) => {
    if (operand === null || operand === undefined) return []
    const before = countNonFinite(operand)
    return before > 0
      ? [`operand ${i + 1} of shape [${operand.shape.join(', ')}] held ${before} already`]
      : []
  })
  throw new SoftMoEError(
    'ERR_NON_FINITE',
    `${what} has ${found} NaN or infinite elements of ${tensor.size}` +
      `${origins.length > 0 ? ` (${origins.join(', ')})` : ''}; ` +
      'look for a learning rate that is too high or for bad input data',
  )
}

/** Gradients on their way; counts how many places hold the same tensor, since gradients may be passed on unchanged. */
class PendingGradients {
  readonly #gradients = new Map<Tensor, Tensor>()
  readonly #holders = new Map<Tensor, number>()

  accumulate(tensor: Tensor, gradient: Tensor): void {
    const sum = this.#gradients.get(tensor)
    if (sum === undefined) {
      this.#gradients.set(tensor, gradient)
      this.#hold(gradient)
      return
    }
    const total = new Tensor(native.add(sum.handle, gradient.handle, 1), tensor.device)
    this.#gradients.set(tensor, total)
    this.#hold(total)
    this.release(sum)
    if (!this.#holders.has(gradient)) gradient.dispose()
  }

  take(tensor: Tensor): Tensor | null {
    const gradient = this.#gradients.get(tensor) ?? null
    this.#gradients.delete(tensor)
    return gradient
  }

  release(gradient: Tensor): void {
    const holders = (this.#holders.get(gradient) ?? 1) - 1
    if (holders > 0) {
      this.#holders.set(gradient, holders)
    } else {
      this.#holders.delete(gradient)
      gradient.dispose()
    }
  }

  /** Hands a taken gradient over: nobody disposes of it unless others still hold it. */
  isShared(gradient: Tensor): boolean {
    return (this.#holders.get(gradient) ?? 0) > 1
  }

  #hold(gradient: Tensor): void {
    this.#holders.set(gradient, (this.#holders.get(gradient) ?? 0) + 1)
  }

  entries(): IterableIterator<[Tensor, Tensor]> {
    return this.#gradients.entries()
  }

  /** What is still on its way. */
  held(): IterableIterator<Tensor> {
    return this.#holders.keys()
  }
}

/** Records operations and differentiates them once. */
export class Tape implements Collector {
  readonly outlivesScopes = true
  readonly #nodes: Node[] = []
  readonly #tensors = new Set<Tensor>()
  readonly #tracked = new Set<Tensor>()
  readonly #kept = new Set<Tensor>()
  #state: 'new' | 'recorded' | 'consumed' = 'new'

  /** Records what `fn` computes. Tensors that `fn` returns outlive the tape; all others it makes do not. */
  record<T>(fn: () => T): T {
    if (this.#state !== 'new') {
      throw new SoftMoEError(
        'ERR_BACKWARD_TWICE',
        'this tape has recorded already; use a new Tape for each step',
      )
    }
    if (recordingTape !== null) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        'a tape is recording already; tapes cannot be nested: use noGrad() inside, or one tape for both',
      )
    }
    this.#state = 'recorded'
    let result: T
    try {
      result = withRecordingTape(this, () => withCollector(this, fn))
    } catch (error) {
      this.dispose()
      throw error
    }
    visitTensors(result, (tensor) => {
      this.keep(tensor)
    })
    return result
  }

  /** Lets a tensor outlive the tape. */
  keep(tensor: Tensor): void {
    this.#kept.add(tensor)
    this.#tensors.delete(tensor)
  }

  /** For the library: takes a tensor made while recording. */
  add(tensor: Tensor): void {
    this.#tensors.add(tensor)
  }

  /** For the library: whether gradients flow to this tensor. */
  tracks(tensor: Tensor): boolean {
    return tensor.requiresGrad || this.#tracked.has(tensor)
  }

  /** For the library: appends an operation. */
  push(node: Node): void {
    this.#nodes.push(node)
    for (const output of node.outputs) this.#tracked.add(output)
  }

  /**
   * Differentiates `loss`, which must have one element, adds the gradients to the leaves' `grad` and frees every
   * intermediate.
   *
   * @param gradient - factor of all gradients, default 1
   * @throws `ERR_BACKWARD_TWICE`, `ERR_NOT_RECORDED`, `ERR_SHAPE`
   */
  backward(loss: Tensor, gradient = 1): void {
    if (this.#state === 'consumed') {
      throw new SoftMoEError(
        'ERR_BACKWARD_TWICE',
        'backward was called on this tape already and its intermediates are freed; record the step again',
      )
    }
    if (!this.#tracked.has(loss)) {
      throw new SoftMoEError(
        'ERR_NOT_RECORDED',
        'the loss was not recorded by this tape, or depends on no parameter; compute it inside tape.record()',
      )
    }
    if (loss.size !== 1) {
      throw new SoftMoEError(
        'ERR_SHAPE',
        `the loss has shape [${loss.shape.join(', ')}]; reduce it to one element with mean() or sum()`,
      )
    }
    this.#state = 'consumed'
    try {
      withCollector(this, () => {
        this.#run(loss, gradient)
      })
    } finally {
      this.dispose()
    }
  }

  #run(loss: Tensor, gradient: number): void {
    const pending = new PendingGradients()
    try {
      this.#propagate(loss, gradient, pending)
    } catch (error) {
      for (const unfinished of pending.held()) if (!this.#kept.has(unfinished)) unfinished.dispose()
      throw error
    }
  }

  #propagate(loss: Tensor, gradient: number, pending: PendingGradients): void {
    const seed = new Tensor(native.full(loss.device, loss.shape, loss.dtype, gradient), loss.device)
    pending.accumulate(loss, seed)
    for (let node = this.#nodes.pop(); node !== undefined; node = this.#nodes.pop()) {
      const outputGradients = node.outputs.map((output) => pending.take(output))
      if (outputGradients.some((dy) => dy !== null)) {
        const wanted = node.inputs.map((input) => input !== null && this.tracks(input))
        const inputGradients = node.gradient(outputGradients, wanted)
        node.inputs.forEach((input, i) => {
          const dx = inputGradients[i] ?? null
          if (dx === null || input === null || !wanted[i]) return
          if (detectAnomaly) requireFinite(dx, `the gradient of ${node.name} for its operand ${i + 1}`)
          pending.accumulate(input, dx)
        })
        for (const dy of outputGradients) if (dy !== null) pending.release(dy)
      }
      this.#free([...node.outputs, ...node.saved])
    }
    for (const [leaf, leafGradient] of pending.entries()) {
      if (leaf.requiresGrad) this.#deposit(leaf, leafGradient, pending.isShared(leafGradient))
    }
  }

  #deposit(leaf: Tensor, gradient: Tensor, shared: boolean): void {
    const target = leaf.gradientTarget
    const sameShape =
      gradient.shape.length === target.shape.length && gradient.shape.every((n, i) => n === target.shape[i])
    let deposited = sameShape
      ? gradient
      : new Tensor(native.reshape(gradient.handle, target.shape), leaf.device)
    if (target.grad !== null) {
      const total = new Tensor(native.add(target.grad.handle, deposited.handle, 1), leaf.device)
      target.grad.dispose()
      deposited = total
    } else if (shared) {
      deposited = new Tensor(native.reshape(deposited.handle, target.shape), leaf.device)
    }
    this.keep(deposited)
    target.grad = deposited
  }

  #free(tensors: readonly Tensor[]): void {
    for (const tensor of tensors) {
      if (this.#kept.has(tensor)) continue
      this.#tensors.delete(tensor)
      tensor.dispose()
    }
  }

  /** Frees what the tape holds without differentiating. */
  dispose(): void {
    this.#state = 'consumed'
    this.#nodes.length = 0
    for (const tensor of this.#tensors) tensor.dispose()
    this.#tensors.clear()
    this.#tracked.clear()
    this.#kept.clear()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

/**
 * A differentiable function of your own. `forward` runs without recording; `backward` gets the output gradients and
 * returns one gradient (or null) for each input.
 *
 * @example
 * const cube = (x: Tensor) =>
 *   customGradient('cube', [x], ([x]) => [multiply(multiply(x, x), x)], ([dy], [x]) => [multiply(dy, scale(multiply(x, x), 3))])[0]
 */
export function customGradient(
  name: string,
  inputs: readonly Tensor[],
  forward: (inputs: readonly Tensor[]) => readonly Tensor[],
  backward: (
    outputGradients: readonly (Tensor | null)[],
    inputs: readonly Tensor[],
  ) => readonly (Tensor | null)[],
): readonly Tensor[] {
  requireArray('the inputs of customGradient', inputs)
  requireFunction('forward of customGradient', forward)
  requireFunction('backward of customGradient', backward)
  const outputs = noGrad(() => forward(inputs))
  recordOperation(name, inputs, outputs, [], (outputGradients) => {
    const gradients = backward(outputGradients, inputs)
    if (gradients.length !== inputs.length) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `the gradient of ${name} returned ${gradients.length} tensors for ${inputs.length} inputs; ` +
          'return one for each, null where there is none',
      )
    }
    return gradients
  })
  return outputs
}
