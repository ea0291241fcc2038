import { requireObject } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'
import { withCollector } from '../core/lifetime.js'
import { noGrad } from '../core/tape.js'
import type { Tensor } from '../core/tensor.js'
import { EncoderBlock } from '../layers/encoder-block.js'
import { type FreezeOptions, Mlp, mlpsOf } from '../layers/experts.js'
import { constant, lecunNormal, normal, zeros } from '../layers/initializers.js'
import { LayerNorm } from '../layers/layer-norm.js'
import { Linear } from '../layers/linear.js'
import { MapHead } from '../layers/map-head.js'
import { MoE } from '../layers/moe.js'
import { type LayerContext, Module, requireCount, requireRate } from '../layers/module.js'
import type { Parameter } from '../layers/parameter.js'
import { sincos2d } from '../layers/position-embedding.js'
import {
  add,
  asDType,
  broadcast,
  concat,
  dropout,
  mean,
  patchify,
  reshape,
  slice,
} from '../ops/elementwise.js'
import { createRouter } from '../routers/create-router.js'
import type { RouteOptions } from '../routers/router.js'
import {
  imageExtents,
  moeBlockIndices,
  patchGrid,
  tokenCount,
  type VisionTransformerConfig,
} from './config.js'

/** What the model returns. */
export interface ModelOutput {
  /** float32 `[batch, numClasses]`. */
  readonly logits: Tensor
  /** Sum of the MoE layers' auxiliary losses, a float32 tensor of shape `[]`, or null. */
  readonly auxiliaryLoss: Tensor | null
}

class Encoder extends Module {
  readonly blocks: readonly EncoderBlock[]
  readonly norm: LayerNorm
  readonly positions: Parameter | null

  constructor(config: VisionTransformerConfig, context: LayerContext) {
    super(context)
    const tokens = tokenCount(config)
    this.positions =
      config.positionEmbedding === 'learned'
        ? this.child('posembed_input', new LearnedPositions(tokens, config.width, this.context)).embedding
        : null
    const { moe } = config
    const moeBlocks = new Set(
      moe === undefined ? [] : moeBlockIndices(moe.blocks ?? 'last-half', config.depth),
    )
    this.blocks = Array.from({ length: config.depth }, (_, i) =>
      this.child(`encoderblock_${i}`, this.#block(config, moeBlocks.has(i), tokens)),
    )
    this.norm = this.child('encoder_norm', new LayerNorm({ dim: config.width }, this.context))
  }

  #block(config: VisionTransformerConfig, isMoe: boolean, tokens: number): EncoderBlock {
    const { width: dim, mlpDim, numHeads, qkNorm = false, dropoutRate = 0, attentionDropoutRate = 0 } = config
    const { moe } = config
    const options = {
      dim,
      numHeads,
      qkNorm,
      dropoutRate: attentionDropoutRate,
      residualDropoutRate: dropoutRate,
    }
    return new EncoderBlock(
      options,
      (context) => {
        if (moe === undefined || !isMoe) return new Mlp({ dim, hiddenDim: mlpDim, dropoutRate }, context)
        const { numExperts, hiddenDim = mlpDim, shareInit = false, groupSize } = moe
        const shape = { dim, numExperts, tokens, ...(groupSize === undefined ? {} : { groupSize }) }
        return new MoE(
          createRouter(moe.router, shape, context),
          { dim, hiddenDim, numExperts, shareInit, dropoutRate: moe.dropoutRate ?? 0 },
          context,
        )
      },
      this.context,
    )
  }
}

class LearnedPositions extends Module {
  readonly embedding: Parameter

  constructor(tokens: number, dim: number, context: LayerContext) {
    super(context)
    this.embedding = this.parameter('pos_embedding', [1, tokens, dim], normal(0.02))
  }
}

/**
 * A vision transformer, dense or with MoE layers (Soft MoE, V-MoE). Parameter paths and shapes are those of the
 * papers' Flax code.
 *
 * @example
 * const model = new VisionTransformer({
 *   ...vit('S/16'), numClasses: 10, moe: { router: 'soft', numExperts: 32, blocks: 'last-half' },
 * })
 * const logits = model.forward(images) // images [batch, 224, 224, 3]
 */
export class VisionTransformer extends Module {
  readonly config: VisionTransformerConfig
  readonly embedding: Linear
  readonly classToken: Parameter | null
  readonly encoder: Encoder
  readonly mapHead: MapHead | null
  readonly preLogits: Linear | null
  readonly head: Linear
  readonly #fixedPositions: Tensor | null

  constructor(config: VisionTransformerConfig, context: LayerContext = {}) {
    super(context)
    requireObject('the configuration of VisionTransformer', config)
    this.config = config
    const {
      width,
      patchSize,
      channels = 3,
      numClasses,
      numHeads,
      mlpDim,
      representationDim,
      qkNorm = false,
    } = config
    const { classifier = 'gap', positionEmbedding = 'sincos2d', headBias = 0 } = config
    for (const name of ['width', 'depth', 'numHeads', 'mlpDim', 'numClasses', 'patchSize'] as const) {
      requireCount(name, config[name])
    }
    requireCount('channels', channels)
    requireRate('dropoutRate', config.dropoutRate ?? 0)
    requireOneOf('classifier', classifier, ['gap', 'token', 'map'])
    requireOneOf('positionEmbedding', positionEmbedding, ['sincos2d', 'learned'])
    const [rows, columns] = patchGrid(config)
    const patchDim = patchSize * patchSize * channels
    this.embedding = this.child(
      'embedding',
      new Linear(
        {
          inDim: patchDim,
          outDim: width,
          kernelShape: [patchSize, patchSize, channels, width],
          kernelInit: lecunNormal(patchDim),
        },
        this.context,
      ),
    )
    this.classToken = classifier === 'token' ? this.parameter('cls', [1, 1, width], zeros) : null
    this.encoder = this.child('Encoder', new Encoder(config, this.context))
    this.mapHead =
      classifier === 'map'
        ? this.child(
            'MapHead',
            new MapHead({ dim: width, numHeads, hiddenDim: mlpDim, qkNorm }, this.context),
          )
        : null
    this.preLogits =
      representationDim === undefined
        ? null
        : this.child(
            'pre_logits',
            new Linear({ inDim: width, outDim: representationDim, activation: 'tanh' }, this.context),
          )
    this.head = this.child(
      'head',
      new Linear(
        {
          inDim: representationDim ?? width,
          outDim: numClasses,
          outDType: 'float32',
          kernelInit: zeros,
          biasInit: constant(headBias),
        },
        this.context,
      ),
    )
    this.#fixedPositions =
      positionEmbedding === 'sincos2d'
        ? withCollector(null, () => this.#sincosPositions(rows, columns, classifier === 'token'))
        : null
  }

  #sincosPositions(rows: number, columns: number, classToken: boolean): Tensor {
    const { width } = this.config
    const patches = sincos2d(rows, columns, width)
    if (!classToken) return this.device.tensor(patches, [rows * columns, width])
    const all = new Float32Array(patches.length + width)
    all.set(patches, width)
    return this.device.tensor(all, [rows * columns + 1, width])
  }

  /** Patch and position embeddings. @returns `[batch, tokens, width]` */
  embed(images: Tensor): Tensor {
    const { width, patchSize, dropoutRate = 0 } = this.config
    const [height, imageWidth] = imageExtents(this.config)
    const { channels = 3 } = this.config
    const [batch = 0, ...extents] = images.shape
    if (images.shape.length !== 4 || extents.join() !== [height, imageWidth, channels].join()) {
      throw new SoftMoEError(
        'ERR_SHAPE',
        `the images have shape [${images.shape.join(', ')}]; wanted [batch, ${height}, ${imageWidth}, ${channels}]`,
      )
    }
    let x = this.embedding.forward(patchify(images, patchSize, this.dtype))
    if (this.classToken !== null) {
      const token = broadcast(this.classToken.operand('float32', [1, width]), 0, batch)
      x = concat([asDType(token, this.dtype), x], 1)
    }
    const positions = this.encoder.positions?.operand('float32', [tokenCount(this.config), width])
    x = add(x, positions ?? this.#positions())
    return this.training && dropoutRate > 0 ? dropout(x, dropoutRate, this.random.next()) : x
  }

  #positions(): Tensor {
    if (this.#fixedPositions === null) throw new Error('the model has no position embeddings')
    return this.#fixedPositions
  }

  /** Tokens after the encoder and its last normalisation, and the summed auxiliary loss. */
  encode(
    images: Tensor,
    options?: RouteOptions,
  ): { readonly tokens: Tensor; readonly auxiliaryLoss: Tensor | null } {
    return this.run(() => {
      let x = this.embed(images)
      let auxiliaryLoss: Tensor | null = null
      for (const block of this.encoder.blocks) {
        const { output, auxiliaryLoss: loss } = block.forward(x, options)
        x = output
        if (loss !== null) auxiliaryLoss = auxiliaryLoss === null ? loss : add(auxiliaryLoss, loss)
      }
      return { tokens: this.encoder.norm.forward(x), auxiliaryLoss }
    })
  }

  /** Pools encoded tokens `[batch, tokens, width]` to one vector an image, before the head. */
  pool(tokens: Tensor): Tensor {
    const { classifier = 'gap', width } = this.config
    let pooled: Tensor
    if (this.mapHead !== null) pooled = this.mapHead.forward(tokens)
    else if (classifier === 'token') pooled = reshape(slice(tokens, 1, 0, 1), [tokens.shape[0] ?? 0, width])
    else pooled = mean(tokens, 1)
    return this.preLogits === null ? pooled : this.preLogits.forward(pooled)
  }

  /** Frozen features for linear probes, float32 `[batch, representationDim or width]`; nothing is recorded. */
  features(images: Tensor): Tensor {
    return noGrad(() => this.run(() => asDType(this.pool(this.encode(images).tokens), 'float32')))
  }

  /**
   * Class scores. For training with routers that have auxiliary losses use `forwardWithLoss`.
   *
   * @param images - `[batch, height, width, channels]`
   * @param options - compute of the MoE layers in this call: k, capacity factor, priority
   * @returns float32 `[batch, numClasses]`
   * @throws `ERR_SHAPE`, `ERR_DEVICE`, `ERR_INVALID_ARGUMENT`
   */
  forward(images: Tensor, options?: RouteOptions): Tensor {
    return this.run(() => this.forwardWithLoss(images, options).logits)
  }

  /** As `forward`, with the sum of the MoE layers' auxiliary losses. */
  forwardWithLoss(images: Tensor, options?: RouteOptions): ModelOutput {
    return this.run(() => {
      const { tokens, auxiliaryLoss } = this.encode(images, options)
      return { logits: this.head.forward(this.pool(tokens)), auxiliaryLoss }
    })
  }

  /** The MoE layers with their block index, in order. */
  moeLayers(): readonly { readonly block: number; readonly layer: MoE }[] {
    return this.encoder.blocks.flatMap((block, i) =>
      block.mlp instanceof MoE ? [{ block: i, layer: block.mlp }] : [],
    )
  }

  /**
   * Packs the weights of all experts, and of the dense MLPs (each of them is one expert), once for inference; see
   * `Experts.freeze`. All other layers stay as they are.
   *
   * @example
   * const { model } = await loadModel('runs/latest', { device: 'cpu' })
   * model.freezeExperts({ format: 'int8', keepMasters: false })
   */
  freezeExperts(options: FreezeOptions): this {
    for (const mlp of mlpsOf(this)) mlp.freeze(options)
    return this
  }

  /** Drops the frozen weights: the model computes with its parameters again. */
  unfreezeExperts(): this {
    for (const mlp of mlpsOf(this)) mlp.unfreeze()
    return this
  }

  /** The inputs of each MoE layer for a batch, `[batch, tokens, width]`, for inspection; nothing is recorded. */
  moeInputs(
    images: Tensor,
  ): readonly { readonly block: number; readonly layer: MoE; readonly input: Tensor }[] {
    return noGrad(() =>
      this.run(() => {
        const inputs: { block: number; layer: MoE; input: Tensor }[] = []
        let x = this.embed(images)
        this.encoder.blocks.forEach((block, i) => {
          const { mlp } = block
          if (mlp instanceof MoE) inputs.push({ block: i, layer: mlp, input: block.attend(x).normalized })
          x = block.forward(x).output
        })
        return inputs
      }),
    )
  }

  override dispose(): void {
    super.dispose()
    this.#fixedPositions?.dispose()
  }
}

function requireOneOf(name: string, value: string, allowed: readonly string[]): void {
  if (!allowed.includes(value)) {
    throw new SoftMoEError('ERR_INVALID_ARGUMENT', `${name} is '${value}'; wanted ${allowed.join(', ')}`)
  }
}
