/** Defaults of training; apart from the rest, so that the command line can show them without the native addon. */

/** Defaults of `TrainOptions`, chosen for the embedded data set on a small computer. */
export const DEFAULTS = {
  out: 'runs/latest',
  model: 'tiny',
  epochs: 24,
  maxSteps: 20_000,
  batchSize: 32,
  learningRate: 1e-3,
  weightDecay: 0.05,
  labelSmoothing: 0,
  clipNorm: 1,
  cropPadding: 1,
  precision: 'float32',
  seed: 0,
  keep: 2,
} as const
