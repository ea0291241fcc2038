/**
 * Random changes to training images, each a pure function of the image and of numbered random draws, so that the same
 * (seed, epoch, image) gives the same picture in any worker and after any resume.
 *
 * RandAugment (Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2020)
 * applies N operations of strength M, drawn uniformly. The set here is a light one: identity, brightness, contrast,
 * posterise, solarise, translate, shear and rotate; pixels from outside the image are 0.
 */
import { SoftMoEError } from '../core/errors.js'
import { nearestName } from '../core/nearest-name.js'

/** Which changes are made. The default is none. */
export interface AugmentOptions {
  /** Pixels of zeros added on every side before a crop of the original size at a random place. Default 0: no crop. */
  readonly cropPadding?: number
  /** Mirror left to right with probability one half. Default false. */
  readonly flip?: boolean
  readonly randAugment?: {
    /** Operations applied one after another, 1 to 16. Default 2. */
    readonly operations?: number
    /** Strength from 0 (nothing) to 1 (strongest). Default 0.3. */
    readonly magnitude?: number
  }
}

/** Height, width and channels of the images. */
export interface ImageFormat {
  readonly height: number
  readonly width: number
  readonly channels: number
}

/** A uniform number in [0, 1) for each draw number from 0 to {@link DRAWS_PER_IMAGE} - 1. */
export type Draw = (number: number) => number

/** Random numbers set aside for each image. */
export const DRAWS_PER_IMAGE = 64
const MAX_OPERATIONS = 16

/** Checks the options and fills in the defaults; throws `ERR_INVALID_ARGUMENT` for unknown names or values out of range. */
export function checkAugmentOptions(options: AugmentOptions): AugmentOptions {
  const known = ['cropPadding', 'flip', 'randAugment']
  for (const name of Object.keys(options)) {
    if (known.includes(name)) continue
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `augmentation has no option ${name}; did you mean ${nearestName(name, known)}?`,
    )
  }
  const { cropPadding = 0, randAugment } = options
  const check = (holds: boolean, name: string, value: unknown, wanted: string): void => {
    if (holds) return
    throw new SoftMoEError('ERR_INVALID_ARGUMENT', `${name} is ${String(value)}; give ${wanted}`)
  }
  check(
    Number.isInteger(cropPadding) && cropPadding >= 0 && cropPadding <= 1024,
    'cropPadding',
    cropPadding,
    'a whole number from 0 to 1024',
  )
  if (randAugment) {
    const { operations = 2, magnitude = 0.3 } = randAugment
    check(
      Number.isInteger(operations) && operations >= 1 && operations <= MAX_OPERATIONS,
      'randAugment.operations',
      operations,
      `a whole number from 1 to ${MAX_OPERATIONS}`,
    )
    check(magnitude >= 0 && magnitude <= 1, 'randAugment.magnitude', magnitude, 'a number from 0 to 1')
  }
  return options
}

/**
 * Writes the changed image to `target`.
 * @param source the original, `[height, width, channels]`; not modified
 * @param target as large as `source`
 */
export function augmentImage(
  source: Uint8Array,
  target: Uint8Array,
  format: ImageFormat,
  options: AugmentOptions,
  draw: Draw,
): void {
  const padding = options.cropPadding ?? 0
  const places = 2 * padding + 1
  const down = Math.floor(draw(0) * places) - padding
  const right = Math.floor(draw(1) * places) - padding
  const mirrored = (options.flip ?? false) && draw(2) < 0.5
  cropAndFlip(source, target, format, down, right, mirrored)
  if (!options.randAugment) return
  const { operations = 2, magnitude = 0.3 } = options.randAugment
  for (let operation = 0; operation < operations; operation++) {
    const kind = OPERATIONS[Math.floor(draw(3 + 3 * operation) * OPERATIONS.length)]
    const sign = draw(4 + 3 * operation) < 0.5 ? -1 : 1
    kind(target, format, magnitude, sign)
  }
}

function cropAndFlip(
  source: Uint8Array,
  target: Uint8Array,
  { height, width, channels }: ImageFormat,
  down: number,
  right: number,
  mirrored: boolean,
): void {
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const fromRow = row + down
      const fromColumn = (mirrored ? width - 1 - column : column) + right
      const inside = fromRow >= 0 && fromRow < height && fromColumn >= 0 && fromColumn < width
      for (let channel = 0; channel < channels; channel++) {
        target[(row * width + column) * channels + channel] = inside
          ? source[(fromRow * width + fromColumn) * channels + channel]
          : 0
      }
    }
  }
}

type Operation = (pixels: Uint8Array, format: ImageFormat, magnitude: number, sign: number) => void

const OPERATIONS: readonly Operation[] = [
  () => undefined,
  (pixels, _, magnitude, sign) => {
    mapLevels(pixels, (level) => level * (1 + 0.9 * sign * magnitude))
  },
  (pixels, _, magnitude, sign) => {
    const mean = pixels.reduce((sum, level) => sum + level, 0) / pixels.length
    mapLevels(pixels, (level) => mean + (level - mean) * (1 + 0.9 * sign * magnitude))
  },
  (pixels, _, magnitude) => {
    const step = 2 ** Math.round(4 * magnitude)
    mapLevels(pixels, (level) => Math.floor(level / step) * step)
  },
  (pixels, _, magnitude) => {
    mapLevels(pixels, (level) => (level >= 256 * (1 - magnitude) ? 255 - level : level))
  },
  (pixels, format, magnitude, sign) => {
    transform(pixels, format, [1, 0, 0, 1], [sign * magnitude * 0.45 * format.width, 0])
  },
  (pixels, format, magnitude, sign) => {
    transform(pixels, format, [1, 0, 0, 1], [0, sign * magnitude * 0.45 * format.height])
  },
  (pixels, format, magnitude, sign) => {
    transform(pixels, format, [1, 0.3 * sign * magnitude, 0, 1], [0, 0])
  },
  (pixels, format, magnitude, sign) => {
    transform(pixels, format, [1, 0, 0.3 * sign * magnitude, 1], [0, 0])
  },
  (pixels, format, magnitude, sign) => {
    const angle = (sign * magnitude * Math.PI) / 6
    transform(pixels, format, [Math.cos(angle), Math.sin(angle), -Math.sin(angle), Math.cos(angle)], [0, 0])
  },
]

function mapLevels(pixels: Uint8Array, map: (level: number) => number): void {
  for (let at = 0; at < pixels.length; at++) {
    pixels[at] = Math.round(Math.min(255, Math.max(0, map(pixels[at]))))
  }
}

/** Takes pixel (x, y), measured from the centre, from `matrix · (x, y) + shift` of the image, interpolated linearly. */
function transform(
  pixels: Uint8Array,
  { height, width, channels }: ImageFormat,
  [xx, xy, yx, yy]: readonly [number, number, number, number],
  [shiftX, shiftY]: readonly [number, number],
): void {
  const original = pixels.slice()
  const centreX = (width - 1) / 2
  const centreY = (height - 1) / 2
  const level = (row: number, column: number, channel: number): number =>
    row >= 0 && row < height && column >= 0 && column < width
      ? original[(row * width + column) * channels + channel]
      : 0
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const x = xx * (column - centreX) + xy * (row - centreY) + centreX + shiftX
      const y = yx * (column - centreX) + yy * (row - centreY) + centreY + shiftY
      const left = Math.floor(x)
      const top = Math.floor(y)
      const rightShare = x - left
      const lowShare = y - top
      for (let channel = 0; channel < channels; channel++) {
        const high = level(top, left, channel) * (1 - rightShare) + level(top, left + 1, channel) * rightShare
        const low =
          level(top + 1, left, channel) * (1 - rightShare) + level(top + 1, left + 1, channel) * rightShare
        const at = (row * width + column) * channels + channel
        pixels[at] = Math.round(high * (1 - lowShare) + low * lowShare)
      }
    }
  }
}
