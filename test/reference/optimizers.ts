// Optimiser steps on plain arrays. Values and moments are changed in place.
import { type Ref, zeros } from './array.js'

/** √(Σ of all squares). */
export function globalNorm(gradients: readonly Ref[]): number {
  let squares = 0
  for (const gradient of gradients) for (const g of gradient.data) squares += g * g
  return Math.sqrt(squares)
}

/** What gradients are multiplied with so that their global norm is at most `maxNorm`. */
export function clipScale(gradients: readonly Ref[], maxNorm: number): number {
  return Math.min(1, maxNorm / globalNorm(gradients))
}

export interface AdamWOptions {
  readonly learningRate: number
  readonly beta1?: number
  readonly beta2?: number
  readonly epsilon?: number
  /** Decoupled, multiplied with the learning rate. Default 0. */
  readonly weightDecay?: number
}

export interface Moments {
  readonly first: Ref
  readonly second: Ref
}

export function zeroMoments(value: Ref): Moments {
  return { first: zeros(...value.shape), second: zeros(...value.shape) }
}

/**
 * AdamW (Loshchilov and Hutter, 2019): value −= lr·(m̂/(√v̂ + eps) + decay·value), with step counted from 1.
 */
export function adamWStep(
  value: Ref,
  moments: Moments,
  gradient: Ref,
  step: number,
  options: AdamWOptions,
): void {
  const { learningRate, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0 } = options
  for (let i = 0; i < value.data.length; i++) {
    const g = gradient.data[i]
    moments.first.data[i] = beta1 * moments.first.data[i] + (1 - beta1) * g
    moments.second.data[i] = beta2 * moments.second.data[i] + (1 - beta2) * g * g
    const mean = moments.first.data[i] / (1 - beta1 ** step)
    const meanSquare = moments.second.data[i] / (1 - beta2 ** step)
    value.data[i] -= learningRate * (mean / (Math.sqrt(meanSquare) + epsilon) + weightDecay * value.data[i])
  }
}

export interface SgdOptions {
  readonly learningRate: number
  readonly momentum?: number
  readonly nesterov?: boolean
  /** Added to the gradient as decay·value. Default 0. */
  readonly weightDecay?: number
}

/** g += decay·value; m = momentum·m + g; value −= lr·(nesterov ? g + momentum·m : m). */
export function sgdStep(value: Ref, momentumBuffer: Ref, gradient: Ref, options: SgdOptions): void {
  const { learningRate, momentum = 0, nesterov = false, weightDecay = 0 } = options
  for (let i = 0; i < value.data.length; i++) {
    const g = gradient.data[i] + weightDecay * value.data[i]
    const m = momentum * momentumBuffer.data[i] + g
    momentumBuffer.data[i] = m
    value.data[i] -= learningRate * (nesterov ? g + momentum * m : m)
  }
}
