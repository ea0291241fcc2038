// Multi-head attention on separate heads: out = softmax(q kᵀ / √D) v (Vaswani et al., 2017, equation 1).
import { type Ref, zeros } from './array.js'

/**
 * Attention weights [B, H, Mq, Mk] of q [B, Mq, H, D] and k [B, Mk, H, D]; rows sum to one.
 */
export function attentionWeights(q: Ref, k: Ref): Ref {
  const [batch, queries, heads, dim] = q.shape as [number, number, number, number]
  const keys = k.shape[1]
  const weights = zeros(batch, heads, queries, keys)
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      for (let m = 0; m < queries; m++) {
        const row = ((b * heads + h) * queries + m) * keys
        let largest = -Infinity
        for (let n = 0; n < keys; n++) {
          let score = 0
          for (let i = 0; i < dim; i++) {
            score +=
              q.data[((b * queries + m) * heads + h) * dim + i] *
              k.data[((b * keys + n) * heads + h) * dim + i]
          }
          weights.data[row + n] = score / Math.sqrt(dim)
          largest = Math.max(largest, weights.data[row + n])
        }
        let total = 0
        for (let n = 0; n < keys; n++) total += Math.exp(weights.data[row + n] - largest)
        for (let n = 0; n < keys; n++)
          weights.data[row + n] = Math.exp(weights.data[row + n] - largest) / total
      }
    }
  }
  return weights
}

/**
 * q [B, Mq, H, D], k and v [B, Mk, H, D] → [B, Mq, H, D]. `dropout` [B, H, Mq, Mk], if given, multiplies
 * the weights after the softmax (0 where dropped, 1/(1 − rate) where kept).
 */
export function attention(q: Ref, k: Ref, v: Ref, dropout?: Ref): Ref {
  const [batch, queries, heads, dim] = q.shape as [number, number, number, number]
  const keys = k.shape[1]
  const weights = attentionWeights(q, k)
  const out = zeros(batch, queries, heads, dim)
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      for (let m = 0; m < queries; m++) {
        for (let n = 0; n < keys; n++) {
          const at = ((b * heads + h) * queries + m) * keys + n
          const weight = weights.data[at] * (dropout ? dropout.data[at] : 1)
          for (let i = 0; i < dim; i++) {
            out.data[((b * queries + m) * heads + h) * dim + i] +=
              weight * v.data[((b * keys + n) * heads + h) * dim + i]
          }
        }
      }
    }
  }
  return out
}

export interface AttentionGradients {
  readonly dq: Ref
  readonly dk: Ref
  readonly dv: Ref
}

/** Gradients for dOut [B, Mq, H, D], in the shapes of q, k and v. */
export function attentionBackward(q: Ref, k: Ref, v: Ref, dOut: Ref, dropout?: Ref): AttentionGradients {
  const [batch, queries, heads, dim] = q.shape as [number, number, number, number]
  const keys = k.shape[1]
  const weights = attentionWeights(q, k)
  const dq = zeros(...q.shape)
  const dk = zeros(...k.shape)
  const dv = zeros(...v.shape)
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      for (let m = 0; m < queries; m++) {
        const row = ((b * heads + h) * queries + m) * keys
        const query = ((b * queries + m) * heads + h) * dim
        const dWeights = new Float64Array(keys)
        let rowDot = 0
        for (let n = 0; n < keys; n++) {
          const key = ((b * keys + n) * heads + h) * dim
          const multiplier = dropout ? dropout.data[row + n] : 1
          for (let i = 0; i < dim; i++) {
            dWeights[n] += dOut.data[query + i] * v.data[key + i] * multiplier
            dv.data[key + i] += weights.data[row + n] * multiplier * dOut.data[query + i]
          }
          rowDot += weights.data[row + n] * dWeights[n]
        }
        for (let n = 0; n < keys; n++) {
          const key = ((b * keys + n) * heads + h) * dim
          const dScore = (weights.data[row + n] * (dWeights[n] - rowDot)) / Math.sqrt(dim)
          for (let i = 0; i < dim; i++) {
            dq.data[query + i] += dScore * k.data[key + i]
            dk.data[key + i] += dScore * q.data[query + i]
          }
        }
      }
    }
  }
  return { dq, dk, dv }
}
