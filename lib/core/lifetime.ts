/**
 * Who disposes of tensors. Every tensor that an operation makes is handed to the innermost collector: a scope, which
 * disposes of what is not returned from it, or a tape, which disposes of its intermediates after `backward`. With no
 * collector a tensor belongs to the caller; the garbage collector is the last resort.
 */
import { requireFunction } from './arguments.js'
import { SoftMoEError } from './errors.js'
import type { Tensor } from './tensor.js'

/** Takes tensors as they are made. */
export interface Collector {
  /** Whether an inner `scope` leaves its tensors to this collector (a recording tape needs them later). */
  readonly outlivesScopes: boolean
  add(tensor: Tensor): void
}

let current: Collector | null = null

/** The innermost collector. */
export function currentCollector(): Collector | null {
  return current
}

/** Runs `fn` with `collector` as the innermost one (null: tensors belong to the caller). */
export function withCollector<T>(collector: Collector | null, fn: () => T): T {
  const outer = current
  current = collector
  try {
    return fn()
  } finally {
    current = outer
  }
}

class ScopeCollector implements Collector {
  readonly outlivesScopes = false
  readonly tensors = new Set<Tensor>()

  add(tensor: Tensor): void {
    this.tensors.add(tensor)
  }
}

interface TensorLike {
  readonly isTensor: true
}

function isTensor(value: unknown): value is Tensor & TensorLike {
  return typeof value === 'object' && value !== null && (value as Partial<TensorLike>).isTensor === true
}

/** Calls `visit` for every tensor in a value made of arrays and plain objects. */
export function visitTensors(value: unknown, visit: (tensor: Tensor) => void): void {
  if (isTensor(value)) {
    visit(value)
  } else if (Array.isArray(value)) {
    for (const item of value) visitTensors(item, visit)
  } else if (typeof value === 'object' && value !== null) {
    const prototype: unknown = Object.getPrototypeOf(value)
    if (prototype === Object.prototype || prototype === null) {
      for (const item of Object.values(value)) visitTensors(item, visit)
    }
  }
}

/** A copy of a value made of arrays and plain objects, with another tensor in the place of each one. */
export function mapTensors<T>(value: T, replace: (tensor: Tensor) => Tensor): T {
  const map = (item: unknown): unknown => {
    if (isTensor(item)) return replace(item)
    if (Array.isArray(item)) return item.map(map)
    if (typeof item !== 'object' || item === null) return item
    const prototype: unknown = Object.getPrototypeOf(item)
    if (prototype !== Object.prototype && prototype !== null) return item
    return Object.fromEntries(Object.entries(item).map(([name, inner]) => [name, map(inner)]))
  }
  return map(value) as T
}

/**
 * Runs `fn` and disposes of every tensor made in it, except those that it returns (alone, in arrays or in plain
 * objects). Under a recording tape it disposes of nothing: the tape does.
 *
 * @throws `ERR_INVALID_ARGUMENT` if `fn` is asynchronous: tensors made after its first `await` would escape.
 */
export function scope<T>(fn: () => T): T {
  requireFunction('what scope() runs', fn)
  const outer = current
  if (outer?.outlivesScopes === true) return fn()
  const collector = new ScopeCollector()
  let result: T
  try {
    result = withCollector(collector, fn)
    if (result instanceof Promise) {
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        'scope() was given an asynchronous function; wait outside of it and return tensors from a plain function',
      )
    }
  } catch (error) {
    for (const tensor of collector.tensors) tensor.dispose()
    throw error
  }
  visitTensors(result, (tensor) => {
    if (collector.tensors.delete(tensor)) outer?.add(tensor)
  })
  for (const tensor of collector.tensors) tensor.dispose()
  return result
}
