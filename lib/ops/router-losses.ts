/**
 * Auxiliary losses of routers by index. Each takes float32 `[groups, tokens, experts]` and returns a float32 tensor
 * `[groups]`, the loss of each group. CV is the coefficient of variation, population deviation over mean; CV² of equal
 * values is 0, with gradient 0.
 */
import { recordOperation } from '../core/tape.js'
import { handleOf, optionalHandle, type Tensor } from '../core/tensor.js'
import { native, type RouterLossKind } from '../native.js'
import { only, wrap } from './wrap.js'

function routerLoss(kind: RouterLossKind, a: Tensor, b: Tensor | null, k: number, sigma: number): Tensor {
  const losses = wrap(native.routerLoss(kind, handleOf(a), optionalHandle(b), k, sigma), a.device)
  recordOperation(`${kind}Loss`, [a], [losses], [], (dys) => [
    wrap(native.routerLossBackward(kind, a.handle, b?.handle ?? null, k, sigma, only(dys).handle), a.device),
  ])
  return losses
}

/** CV² over the experts of the sum of their gates (V-MoE, appendix A). @param gates - of the clean logits */
export function importanceLoss(gates: Tensor): Tensor {
  return routerLoss('importance', gates, null, 1, 0)
}

/**
 * CV² over the experts of the mean probability that a token would select them were the noise drawn again (V-MoE,
 * appendix A). The threshold, a token's k-th largest noisy logit, moves with that logit.
 *
 * @param logits - without noise
 * @param noisyLogits - `logits` plus normal noise of standard deviation `sigma`
 * @throws `ERR_INVALID_ARGUMENT` unless sigma > 0 and 1 <= k <= experts
 */
export function loadLoss(logits: Tensor, noisyLogits: Tensor, k: number, sigma: number): Tensor {
  return routerLoss('load', logits, noisyLogits, k, sigma)
}

/**
 * `experts * sum over experts of (share of the tokens whose best expert it is) * (its mean gate)` (GShard, algorithm 1).
 * The share is a constant to the gradient.
 */
export function gshardLoss(gates: Tensor): Tensor {
  return routerLoss('gshard', gates, null, 1, 0)
}

/** Mean over the tokens of `logsumexp(logits)²` (ST-MoE, equation 5): keeps logits small. */
export function zLoss(logits: Tensor): Tensor {
  return routerLoss('z', logits, null, 1, 0)
}
