/** Defaults of training; apart from the rest, so that the command line can show them without the native addon. */

/** Defaults of `TrainOptions`, chosen for the embedded data set on a small computer. */
export const DEFAULTS = {
  out: 'runs/latest',
  epochs: 20,
  maxSteps: 6000,
  batchSize: 128,
  learningRate: 2e-3,
  weightDecay: 0.05,
  labelSmoothing: 0.1,
  clipNorm: 1,
  cropPadding: 2,
  precision: 'float32',
  seed: 0,
  keep: 2,
} as const
