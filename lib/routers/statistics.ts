import type { Tensor } from '../core/tensor.js'
import type { MoE } from '../layers/moe.js'
import type { MetricsOptions } from './router.js'

/**
 * Numbers that say how a layer routes a batch, by name, for `metrics.jsonl`; see `sparseMetrics` and `softMetrics`.
 * Without noise; nothing is recorded.
 *
 * @param x - the layer's input, `[batch, tokens, dim]`, not empty
 */
export function routerMetrics(
  layer: MoE,
  x: Tensor,
  options: MetricsOptions = {},
): Promise<Record<string, number>> {
  return layer.router.metrics(x, options)
}
