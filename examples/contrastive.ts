/**
 * Contrastive training of two towers (CLIP; Soft MoE, section 4): a Soft MoE vision transformer embeds images, a table of
 * learned vectors embeds the words of class names, and matching pairs are drawn together. Then images are classified by
 * the nearest class name, without a classifier: `npx tsx examples/contrastive.ts [steps]`.
 */
import {
  AdamW,
  argmax,
  constant,
  contrastiveLoss,
  kernelDecay,
  Linear,
  loadImages,
  Module,
  noGrad,
  openDataset,
  openDevice,
  pairLogits,
  RandomSource,
  scope,
  VisionTransformer,
  warmupCosine,
  type LayerContext,
  type Parameter,
  type Tensor,
} from 'softmoe'

const EMBEDDING = 64
const steps = Number(process.argv[2] ?? 300)
const { train, test } = await openDataset(undefined, { source: 'embedded' })

/** Bags of letter trigrams: "Ankle boot" -> "ank", "nkl", …; `[texts, trigrams]`, each row of length 1. */
function trigrams(text: string): string[] {
  const padded = ` ${text.toLowerCase()} `
  return Array.from({ length: padded.length - 2 }, (_, i) => padded.slice(i, i + 3))
}
const vocabulary = [...new Set(train.classNames.flatMap(trigrams))]
function textFeatures(texts: readonly string[]): Float32Array {
  return Float32Array.from(
    texts.flatMap((text) => {
      const found = trigrams(text)
      return vocabulary.map((trigram) => (found.includes(trigram) ? 1 / Math.sqrt(found.length) : 0))
    }),
  )
}

class TwoTowers extends Module {
  readonly image: VisionTransformer
  readonly text: Linear
  readonly temperature: Parameter

  constructor(context: LayerContext) {
    super(context)
    this.image = this.child(
      'image',
      new VisionTransformer(
        {
          imageSize: [train.height, train.width],
          channels: train.channels,
          patchSize: 7,
          width: 64,
          depth: 4,
          numHeads: 4,
          mlpDim: 128,
          representationDim: EMBEDDING,
          numClasses: 1,
          moe: { router: 'soft', numExperts: 4 },
        },
        this.context,
      ),
    )
    this.text = this.child('text', new Linear({ inDim: vocabulary.length, outDim: EMBEDDING }, this.context))
    this.temperature = this.parameter('temperature', [1], constant(10))
  }

  embedImages(images: Tensor): Tensor {
    return this.image.pool(this.image.encode(images).tokens)
  }

  embedTexts(texts: readonly string[]): Tensor {
    return this.text.forward(this.device.tensor(textFeatures(texts), [texts.length, vocabulary.length]))
  }
}

const device = openDevice()
const towers = new TwoTowers({ device, random: new RandomSource(0) })
// The head takes no part: its parameters have no gradient and stay as they are.
const optimizer = new AdamW(towers.parameters(), {
  learningRate: warmupCosine(2e-3, Math.ceil(steps / 20), steps),
  weightDecay: kernelDecay(0.05),
  clipNorm: 1,
})
const shape = [train.height, train.width, train.channels]

const loader = loadImages(train, { batchSize: 64, end: steps, augment: { cropPadding: 1 } })
for await (const { images, labels, count, step } of loader) {
  const { loss } = await optimizer.step(() => {
    const pictures = device.tensor(images, [count, ...shape])
    const texts = Array.from(labels, (label) => train.classNames[label])
    return contrastiveLoss(
      pairLogits(towers.embedImages(pictures), towers.embedTexts(texts), towers.temperature.value),
    )
  })
  if ((step + 1) % 50 === 0) console.log(`step ${step + 1}: loss ${loss.toFixed(3)}`)
}

towers.eval()
let correct = 0
for await (const { images, labels, count } of loadImages(test, {
  batchSize: 200,
  shuffle: false,
  normalisation: loader.normalisation,
})) {
  const nearest = noGrad(() =>
    scope(() => {
      const pictures = towers.embedImages(device.tensor(images, [count, ...shape]))
      return argmax(pairLogits(pictures, towers.embedTexts(test.classNames), 1))
    }),
  )
  const classes = await nearest.data()
  nearest.dispose()
  labels.forEach((label, i) => {
    if (classes[i] === label) correct++
  })
}
console.log(
  `zero-shot accuracy ${((100 * correct) / test.count).toFixed(1)} % (chance: ${100 / test.classNames.length} %)`,
)
