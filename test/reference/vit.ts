// A whole Vision Transformer with dense, Soft MoE and sparse MoE blocks, forward and backward, driven by the
// configuration in a golden model file. Parameter names are the paths of the papers' Flax tree.
import { add, fromArray, map, type Ref, reshape } from './array.js'
import { attention, attentionBackward } from './attention.js'
import { expertCapacity } from './capacity.js'
import { smoothedTargets, softmaxCrossEntropy } from './cross-entropy.js'
import {
  addPositions,
  addPositionsBackward,
  patchify,
  patchifyBackward,
  prependToken,
  prependTokenBackward,
  sincos2d,
} from './embeddings.js'
import type { ExpertGradients, ExpertWeights } from './experts.js'
import type { Activation } from './gelu.js'
import { layerNorm, layerNormBackward } from './layer-norm.js'
import { linear, linearBackward } from './linear.js'
import { firstToken, firstTokenBackward, meanPool, meanPoolBackward } from './pooling.js'
import { softMoE, softMoEBackward } from './soft-moe.js'
import { sparseMoE, sparseMoEBackward, type SparseMoEOptions } from './sparse-moe.js'

export interface RouterConfig {
  /** Ends in SoftRouter, NoisyTopExpertsPerItemRouter or NoisyTopItemsPerExpertRouter. */
  readonly name: string
  readonly num_selected_experts?: number
  readonly importance_loss_weight?: number
  readonly gshard_loss_weight?: number
  readonly dispatcher?: {
    readonly capacity_factor?: number
    readonly capacity_ceil_or_round?: 'ceil' | 'round'
    readonly capacity_multiple_of?: number
    readonly batch_priority?: boolean
  }
}

export interface VitConfig {
  readonly classes: number
  readonly patch: number
  readonly depth: number
  readonly heads: number
  readonly classifier: 'gap' | 'token' | 'map'
  readonly position_emb: { readonly name: 'sincos2d' | 'learned' | 'none' }
  readonly qk_norm: boolean
  readonly representation: number | null
  readonly moe: {
    readonly layers?: readonly number[]
    readonly num_experts?: number
    readonly group_size?: number
    readonly router?: RouterConfig
  }
  readonly aux_weight: number
}

export interface VitResult {
  /** [B, classes] */
  readonly logits: Ref
  readonly crossEntropy: number
  readonly auxiliaryLoss: number
  /** Mean softmax cross-entropy + aux_weight · auxiliary loss. */
  readonly loss: number
  /** By parameter path; `images` is the gradient of the images [B, H, W, C]. */
  readonly gradients: ReadonlyMap<string, Ref>
}

/** A value and the way its gradient takes back. */
interface Traced {
  readonly value: Ref
  readonly backward: (gradient: Ref) => Ref
}

class Model {
  readonly gradients = new Map<string, Ref>()
  auxiliaryLoss = 0

  constructor(
    private readonly config: VitConfig,
    private readonly parameters: ReadonlyMap<string, Ref>,
  ) {}

  has(name: string): boolean {
    return this.parameters.has(name)
  }

  parameter(name: string, ...shape: number[]): Ref {
    const value = this.parameters.get(name)
    if (!value) throw new Error(`the model has no parameter ${name}`)
    return shape.length > 0 ? reshape(value, ...shape) : value
  }

  /** Adds to a parameter's gradient, in the parameter's own shape. */
  record(name: string, gradient: Ref): void {
    const shaped = reshape(gradient, ...this.parameter(name).shape)
    const earlier = this.gradients.get(name)
    this.gradients.set(name, earlier ? add(earlier, shaped) : shaped)
  }

  /** A dense layer whose kernel may have split axes: kernel [inputs…, outputs…], bias [outputs…]. */
  dense(path: string, x: Ref, activation: Activation = 'none'): Traced {
    const inputs = x.shape[x.shape.length - 1]
    const kernel = this.parameter(`${path}/kernel`)
    const weight = reshape(kernel, inputs, kernel.data.length / inputs)
    const bias = this.parameter(`${path}/bias`, weight.shape[1])
    return {
      value: linear(x, weight, bias, activation),
      backward: (gradient) => {
        const { dx, dWeight, dBias } = linearBackward(x, weight, bias, activation, gradient)
        this.record(`${path}/kernel`, dWeight)
        this.record(`${path}/bias`, dBias)
        return dx
      },
    }
  }

  layerNorm(path: string, x: Ref): Traced {
    const scale = this.parameter(`${path}/scale`)
    const biasName = `${path}/bias`
    const bias = this.has(biasName) ? this.parameter(biasName) : undefined
    return {
      value: layerNorm(x, scale, bias),
      backward: (gradient) => {
        const { dx, dScale, dBias } = layerNormBackward(x, scale, gradient)
        this.record(`${path}/scale`, dScale)
        if (bias) this.record(biasName, dBias)
        return dx
      },
    }
  }

  mlp(path: string, x: Ref): Traced {
    const hidden = this.dense(`${path}/Dense_0`, x, 'gelu_tanh')
    const out = this.dense(`${path}/Dense_1`, hidden.value)
    return { value: out.value, backward: (gradient) => hidden.backward(out.backward(gradient)) }
  }

  /** Attention from `queries` [B, Mq, d] to `context` [B, Mk, d]; gradients come back for both. */
  attention(path: string, queries: Ref, context: Ref) {
    const { heads, qk_norm: normalise } = this.config
    const split = (x: Ref): Ref => reshape(x, x.shape[0], x.shape[1], heads, x.shape[2] / heads)
    const merge = (x: Ref): Ref => reshape(x, x.shape[0], x.shape[1], x.shape[2] * x.shape[3])
    const project = (name: string, x: Ref): Traced => {
      const projection = this.dense(`${path}/${name}`, x)
      if (!normalise || name === 'value') {
        return {
          value: split(projection.value),
          backward: (gradient) => projection.backward(merge(gradient)),
        }
      }
      const norm = this.layerNorm(`${path}/${name}_ln`, split(projection.value))
      return {
        value: norm.value,
        backward: (gradient) => projection.backward(merge(norm.backward(gradient))),
      }
    }
    const query = project('query', queries)
    const key = project('key', context)
    const value = project('value', context)
    const mixed = attention(query.value, key.value, value.value)
    const out = this.dense(`${path}/out`, merge(mixed))
    return {
      value: out.value,
      backward: (gradient: Ref): { dQueries: Ref; dContext: Ref } => {
        const dMixed = split(out.backward(gradient))
        const { dq, dk, dv } = attentionBackward(query.value, key.value, value.value, dMixed)
        return { dQueries: query.backward(dq), dContext: add(key.backward(dk), value.backward(dv)) }
      },
    }
  }

  private expertWeights(path: string): ExpertWeights {
    return {
      w1: this.parameter(`${path}/Mlp/Dense_0/kernel`),
      b1: this.parameter(`${path}/Mlp/Dense_0/bias`),
      w2: this.parameter(`${path}/Mlp/Dense_1/kernel`),
      b2: this.parameter(`${path}/Mlp/Dense_1/bias`),
    }
  }

  private recordExperts(path: string, gradients: Omit<ExpertGradients, 'dx'>): void {
    this.record(`${path}/Mlp/Dense_0/kernel`, gradients.dw1)
    this.record(`${path}/Mlp/Dense_0/bias`, gradients.db1)
    this.record(`${path}/Mlp/Dense_1/kernel`, gradients.dw2)
    this.record(`${path}/Mlp/Dense_1/bias`, gradients.db2)
  }

  moe(path: string, x: Ref): Traced {
    const { router, group_size: groupSize } = this.config.moe
    if (!router || !groupSize) throw new Error('an MoE block needs a router and a group size')
    const dim = x.shape[2]
    const grouped = reshape(x, x.data.length / dim / groupSize, groupSize, dim)
    const groupGradient = (gradient: Ref): Ref => reshape(gradient, ...grouped.shape)
    if (router.name.endsWith('SoftRouter')) {
      const phi = this.parameter(`${path}/Router/mu`)
      const weights = {
        ...this.expertWeights(path),
        phi,
        scale: this.parameter(`${path}/Router/scale`).data[0],
      }
      return {
        value: reshape(softMoE(grouped, weights).y, ...x.shape),
        backward: (gradient) => {
          const gradients = softMoEBackward(grouped, weights, groupGradient(gradient))
          this.record(`${path}/Router/mu`, gradients.dPhi)
          this.record(`${path}/Router/scale`, fromArray([gradients.dScale], [1]))
          this.recordExperts(path, gradients)
          return reshape(gradients.dx, ...x.shape)
        },
      }
    }
    const weights = { ...this.expertWeights(path), router: this.parameter(`${path}/Router/dense/kernel`) }
    const options = sparseOptions(router, groupSize, weights.router.shape[1])
    const result = sparseMoE(grouped, weights, options)
    this.auxiliaryLoss += result.auxiliaryLoss
    return {
      value: reshape(result.y, ...x.shape),
      backward: (gradient) => {
        const dy = groupGradient(gradient)
        const gradients = sparseMoEBackward(grouped, weights, dy, options, this.config.aux_weight)
        this.record(`${path}/Router/dense/kernel`, gradients.dRouter)
        this.recordExperts(path, gradients)
        return reshape(gradients.dx, ...x.shape)
      },
    }
  }

  encoderBlock(index: number, x: Ref): Traced {
    const path = `Encoder/encoderblock_${String(index)}`
    const firstNorm = this.layerNorm(`${path}/LayerNorm_0`, x)
    const mixed = this.attention(`${path}/SelfAttention`, firstNorm.value, firstNorm.value)
    const middle = add(x, mixed.value)
    const secondNorm = this.layerNorm(`${path}/LayerNorm_1`, middle)
    const isMoe = this.config.moe.layers?.includes(index) ?? false
    const mlp = isMoe ? this.moe(`${path}/Moe`, secondNorm.value) : this.mlp(`${path}/Mlp`, secondNorm.value)
    return {
      value: add(middle, mlp.value),
      backward: (gradient) => {
        const dMiddle = add(gradient, secondNorm.backward(mlp.backward(gradient)))
        const { dQueries, dContext } = mixed.backward(dMiddle)
        return add(dMiddle, firstNorm.backward(add(dQueries, dContext)))
      },
    }
  }

  /** Patch embedding, class token and positions: images [B, H, W, C] → tokens [B, M, d]. */
  embedding(images: Ref): Traced {
    const { patch, classifier, position_emb: positionEmbedding } = this.config
    const patches = patchify(images, patch)
    const embedded = this.dense('embedding', patches)
    const dim = embedded.value.shape[2]
    const steps: ((gradient: Ref) => Ref)[] = []
    let x = embedded.value
    const learned = 'Encoder/posembed_input/pos_embedding'
    if (positionEmbedding.name === 'sincos2d') {
      x = addPositions(
        x,
        sincos2d(Math.floor(images.shape[1] / patch), Math.floor(images.shape[2] / patch), dim),
      )
    }
    if (classifier === 'token') {
      x = prependToken(x, this.parameter('cls'))
      steps.unshift((gradient) => {
        const { dx, dToken } = prependTokenBackward(gradient, this.parameter('cls').shape)
        this.record('cls', dToken)
        return dx
      })
    }
    if (positionEmbedding.name === 'learned') {
      x = addPositions(x, this.parameter(learned))
      steps.unshift((gradient) => {
        this.record(learned, addPositionsBackward(gradient, this.parameter(learned).shape))
        return gradient
      })
    }
    return {
      value: x,
      backward: (gradient) => {
        const dEmbedded = steps.reduce((current, step) => step(current), gradient)
        return patchifyBackward(embedded.backward(dEmbedded), images.shape, patch)
      },
    }
  }

  /** Multi-head attention pooling: tokens [B, M, d] → [B, d]. */
  private mapHead(x: Ref): Traced {
    const [batch, , dim] = x.shape
    const probe = this.parameter('MapHead/probe')
    const probes = map(
      { shape: [batch, 1, dim], data: new Float64Array(batch * dim) },
      (_, i) => probe.data[i % dim],
    )
    const pooled = this.attention('MapHead/MultiHeadDotProductAttention', probes, x)
    const norm = this.layerNorm('MapHead/LayerNorm', pooled.value)
    const mlp = this.mlp('MapHead/Mlp', norm.value)
    return {
      value: reshape(add(pooled.value, mlp.value), batch, dim),
      backward: (gradient) => {
        const shaped = reshape(gradient, batch, 1, dim)
        const dPooled = add(shaped, norm.backward(mlp.backward(shaped)))
        const { dQueries, dContext } = pooled.backward(dPooled)
        this.record('MapHead/probe', addPositionsBackward(dQueries, probe.shape))
        return dContext
      },
    }
  }

  pooled(x: Ref): Traced {
    const tokens = x.shape[1]
    switch (this.config.classifier) {
      case 'gap':
        return { value: meanPool(x), backward: (gradient) => meanPoolBackward(gradient, tokens) }
      case 'token':
        return { value: firstToken(x), backward: (gradient) => firstTokenBackward(gradient, tokens) }
      case 'map':
        return this.mapHead(x)
    }
  }

  /** tanh(x W + b), the representation layer of V-MoE's pre-training heads. */
  representation(x: Ref): Traced {
    const layer = this.dense('pre_logits', x)
    const value = map(layer.value, Math.tanh)
    return {
      value,
      backward: (gradient) => layer.backward(map(gradient, (g, i) => g * (1 - value.data[i] ** 2))),
    }
  }
}

function sparseOptions(router: RouterConfig, groupSize: number, experts: number): SparseMoEOptions {
  const dispatcher = router.dispatcher ?? {}
  const k = router.num_selected_experts ?? 1
  const choice = router.name.endsWith('TopItemsPerExpertRouter') ? 'experts' : 'tokens'
  const capacity = expertCapacity(
    choice === 'tokens' ? groupSize * k : groupSize,
    experts,
    dispatcher.capacity_factor ?? 1,
    dispatcher.capacity_ceil_or_round ?? 'ceil',
    dispatcher.capacity_multiple_of ?? 4,
  )
  if (choice === 'experts') return { choice, capacity }
  return {
    choice,
    k,
    capacity,
    priority: dispatcher.batch_priority ? 'max-gate' : 'token-order',
    auxiliary: { importance: router.importance_loss_weight ?? 1, gshard: router.gshard_loss_weight ?? 0 },
  }
}

/** Logits, losses and every gradient of the model for images [B, H, W, C] and labels [B]. */
export function vit(
  config: VitConfig,
  parameters: ReadonlyMap<string, Ref>,
  images: Ref,
  labels: ArrayLike<number>,
): VitResult {
  const model = new Model(config, parameters)
  const layers: Traced[] = []
  const append = (layer: Traced): Ref => {
    layers.push(layer)
    return layer.value
  }
  let x = append(model.embedding(images))
  for (let block = 0; block < config.depth; block++) x = append(model.encoderBlock(block, x))
  x = append(model.layerNorm('Encoder/encoder_norm', x))
  x = append(model.pooled(x))
  if (config.representation !== null) x = append(model.representation(x))
  const logits = append(model.dense('head', x))
  const { loss: crossEntropy, dLogits } = softmaxCrossEntropy(logits, smoothedTargets(labels, config.classes))
  const dImages = layers.reduceRight((gradient, layer) => layer.backward(gradient), dLogits)
  const gradients = new Map(model.gradients).set('images', dImages)
  const loss = crossEntropy + config.aux_weight * model.auxiliaryLoss
  return { logits, crossEntropy, auxiliaryLoss: model.auxiliaryLoss, loss, gradients }
}
