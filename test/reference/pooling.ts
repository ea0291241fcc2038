// One vector per sequence: the mean of its tokens, or its first token.
import { type Ref, zeros } from './array.js'

/** Mean over the tokens: x [B, M, d] → [B, d]. */
export function meanPool(x: Ref): Ref {
  const [batch, tokens, dim] = x.shape as [number, number, number]
  const y = zeros(batch, dim)
  for (let b = 0; b < batch; b++) {
    for (let m = 0; m < tokens; m++) {
      for (let i = 0; i < dim; i++) y.data[b * dim + i] += x.data[(b * tokens + m) * dim + i] / tokens
    }
  }
  return y
}

/** dy [B, d] → dx [B, tokens, d]. */
export function meanPoolBackward(dy: Ref, tokens: number): Ref {
  const [batch, dim] = dy.shape as [number, number]
  const dx = zeros(batch, tokens, dim)
  for (let b = 0; b < batch; b++) {
    for (let m = 0; m < tokens; m++) {
      for (let i = 0; i < dim; i++) dx.data[(b * tokens + m) * dim + i] = dy.data[b * dim + i] / tokens
    }
  }
  return dx
}

/** The first token: x [B, M, d] → [B, d]. */
export function firstToken(x: Ref): Ref {
  const [batch, tokens, dim] = x.shape as [number, number, number]
  const y = zeros(batch, dim)
  for (let b = 0; b < batch; b++) {
    for (let i = 0; i < dim; i++) y.data[b * dim + i] = x.data[b * tokens * dim + i]
  }
  return y
}

/** dy [B, d] → dx [B, tokens, d], zero but for the first token. */
export function firstTokenBackward(dy: Ref, tokens: number): Ref {
  const [batch, dim] = dy.shape as [number, number]
  const dx = zeros(batch, tokens, dim)
  for (let b = 0; b < batch; b++) {
    for (let i = 0; i < dim; i++) dx.data[b * tokens * dim + i] = dy.data[b * dim + i]
  }
  return dx
}
