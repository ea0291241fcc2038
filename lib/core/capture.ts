/**
 * A function of tensors, recorded once and repeated: on CUDA as a graph, one launch for all of its kernels, which saves
 * their launch times where the batch is small. On the CPU the function itself runs again.
 */
import { type GraphHandle, native } from '../native.js'
import type { Device } from './device.js'
import { SoftMoEError } from './errors.js'
import { mapTensors, scope, visitTensors, withCollector } from './lifetime.js'
import { withoutRandomKeys } from './random-source.js'
import { isRecording, noGrad } from './tape.js'
import { isTensor, Tensor } from './tensor.js'

const RANDOM =
  'a captured function draws random numbers, which would be the same in every run; call eval() on the model first'

/** A function recorded by `capture`. */
export class CapturedFunction<Inputs extends readonly Tensor[], Result> {
  readonly device: Device
  readonly #repeat: (inputs: Inputs) => Result
  readonly #inputs: Inputs
  readonly #free: () => void
  #disposed = false

  /** For the library's own use; users call `capture`. */
  constructor(inputs: Inputs, repeat: (inputs: Inputs) => Result, free: () => void) {
    this.device = deviceOf(inputs)
    this.#inputs = inputs
    this.#repeat = repeat
    this.#free = free
  }

  get disposed(): boolean {
    return this.#disposed
  }

  /**
   * Repeats the function on new inputs. Queued like any operation; nothing is recorded for gradients.
   *
   * @param inputs - of the shapes, dtypes and device that the function was captured with
   * @returns what the function returned, with new tensors that belong to the caller (or to its `scope`)
   * @throws `ERR_SHAPE`, `ERR_DTYPE`, `ERR_DEVICE`, `ERR_DISPOSED`, `ERR_INVALID_ARGUMENT`, `ERR_OUT_OF_MEMORY`
   */
  run(...inputs: Inputs): Result {
    if (this.#disposed) {
      throw new SoftMoEError('ERR_DISPOSED', 'this captured function was disposed; capture it again')
    }
    requireTensors(inputs)
    if (inputs.length !== this.#inputs.length) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `${inputs.length} inputs for a function that was captured with ${this.#inputs.length}`,
      )
    }
    for (const [i, input] of inputs.entries()) requireLike(input, this.#inputs[i], i)
    return this.#repeat(inputs)
  }

  /** Frees the recording and the memory it holds, once queued runs have ended. Calling it twice is harmless. */
  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    this.#free()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

/**
 * Records what `fn` computes, to repeat it on other inputs of the same shapes: inference of a fixed batch size.
 *
 * On CUDA `fn` is called twice, once to load its kernels and once to record them. From then on its JavaScript does not
 * run again: numbers that it read, choices that it made and tensors that it uses beside its inputs are those of the
 * recording. Parameters that are updated in place are seen with their new values. The recording holds its intermediate
 * results, and all that was in memory when it was made, until it is disposed: models and tensors that are disposed
 * earlier are only then freed. On the CPU every run calls `fn`.
 *
 * @param fn - a plain function that returns a tensor, or tensors in arrays or plain objects; it may not wait for results
 *   (`data()`), make tensors from numbers (`device.tensor`) or draw random numbers (dropout: call `eval()`)
 * @param examples - inputs of the shapes, dtypes and device of the later runs; they stay the caller's
 * @throws (rejects) `ERR_INVALID_ARGUMENT` for what cannot be recorded, `ERR_DRIVER` if the driver has no graphs, and
 *   whatever `fn` throws or its operations report
 *
 * @example
 * const classify = await capture((images: Tensor) => model.forward(images), images)
 * const logits = classify.run(otherImages)
 */
export async function capture<Inputs extends readonly Tensor[], Result>(
  fn: (...inputs: Inputs) => Result,
  ...examples: Inputs
): Promise<CapturedFunction<Inputs, Result>> {
  requireTensors(examples)
  if (isRecording()) {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      'a function cannot be captured inside a tape; do it before',
    )
  }
  const compute = (inputs: Inputs): Result =>
    withoutRandomKeys(RANDOM, () => noGrad(() => scope(() => aliases(computed(fn(...inputs))))))
  const device = deviceOf(examples)
  // The recording's own inputs, and the results of the recorded call, belong to nobody else.
  const inputs = withCollector(null, () => copies(examples))
  const freeInputs = (): void => inputs.forEach((input) => input.dispose())
  try {
    scope(() => void compute(inputs))
    await device.synchronize()
    if (device.kind === 'cpu') return new CapturedFunction(inputs, compute, freeInputs)
    const { graph, outputs } = withCollector(null, () => record(device, () => compute(inputs)))
    const repeat = (given: Inputs): Result => {
      inputs.forEach((input, i) => native.copyInto(input.handle, given[i].handle))
      native.replay(graph)
      return copies(outputs)
    }
    return new CapturedFunction(inputs, repeat, () => {
      freeInputs()
      visitTensors(outputs, (tensor) => tensor.dispose())
      native.disposeGraph(graph)
    })
  } catch (error) {
    freeInputs()
    throw error
  }
}

/** Records the operations of `compute`. Whatever goes wrong, the device no longer records afterwards. */
function record<Result>(
  device: Device,
  compute: () => Result,
): { readonly graph: GraphHandle; readonly outputs: Result } {
  native.beginCapture(device)
  let outputs: Result
  try {
    outputs = compute()
  } catch (error) {
    try {
      native.disposeGraph(native.endCapture(device))
    } catch {
      // What interrupted the recording is the better answer.
    }
    throw error
  }
  try {
    return { graph: native.endCapture(device), outputs }
  } catch (error) {
    visitTensors(outputs, (tensor) => tensor.dispose())
    throw error
  }
}

/** The value with a copy of each tensor. */
function copies<Value>(value: Value): Value {
  return mapTensors(value, ({ handle, dtype, device }) => new Tensor(native.cast(handle, dtype), device))
}

/** The value with a tensor of its own in the place of each one, which may be an input or a parameter. */
function aliases<Value>(value: Value): Value {
  return mapTensors(value, ({ handle, shape, device }) => new Tensor(native.reshape(handle, shape), device))
}

/** What the function returned, if that can be repeated. */
function computed<Result>(result: Result): Result {
  let tensors = 0
  visitTensors(result, () => (tensors += 1))
  if (tensors > 0 && !(result instanceof Promise)) return result
  throw new SoftMoEError(
    'ERR_INVALID_ARGUMENT',
    result instanceof Promise
      ? 'a captured function may not be asynchronous; read its results after run()'
      : 'a captured function returned no tensor; return what is to be computed, alone or in arrays or plain objects',
  )
}

function requireTensors(inputs: readonly Tensor[]): void {
  if (inputs.length > 0 && inputs.every(isTensor)) return
  throw new SoftMoEError(
    'ERR_INVALID_ARGUMENT',
    inputs.length === 0 ? 'a captured function needs one input or more' : 'an input is not a tensor',
  )
}

function deviceOf(inputs: readonly Tensor[]): Device {
  return inputs[0].device
}

function requireLike(input: Tensor, captured: Tensor, i: number): void {
  if (input.device !== captured.device) {
    throw new SoftMoEError(
      'ERR_DEVICE',
      `input ${i + 1} is on ${input.device.toString()}; the function was captured on ${captured.device.toString()}`,
    )
  }
  if (input.dtype !== captured.dtype) {
    throw new SoftMoEError(
      'ERR_DTYPE',
      `input ${i + 1} is ${input.dtype}; the function was captured with ${captured.dtype}`,
    )
  }
  if (input.shape.join() !== captured.shape.join()) {
    throw new SoftMoEError(
      'ERR_SHAPE',
      `input ${i + 1} has shape [${input.shape.join(', ')}]; the function was captured with ` +
        `[${captured.shape.join(', ')}]: capture it again for another shape`,
    )
  }
}
