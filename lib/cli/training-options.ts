/** The options of `train`, `eval` and `predict`: names, defaults, ranges and what each means. */
import { Command, Option } from 'commander'
import { SoftMoEError } from '../core/errors.js'
import { CONFIG_OPTION } from './config-file.js'
import { DEFAULTS } from '../training/defaults.js'
import { nonEmpty, oneOf, realNumber, wholeNumber, type ValueParser } from './values.js'

const DEVICES = ['auto', 'cpu', 'cuda'] as const
const PRECISIONS = ['float32', 'bfloat16'] as const
const WEIGHTS = ['float32', 'bfloat16', 'int8'] as const
const MAX_SEED = Number.MAX_SAFE_INTEGER

/** What every command that runs a model is told. */
export interface DeviceOptions {
  /** Default `auto`: the GPU if one is usable, else the CPU. */
  readonly device: (typeof DEVICES)[number]
  /** Threads of the CPU backend; undefined: one a core. */
  readonly threads?: number
}

/** What the commands that use a trained model are told. */
export interface ModelUseOptions extends DeviceOptions {
  /** Format that the weights of the experts and MLPs are frozen in; undefined: as they were trained. */
  readonly weights?: (typeof WEIGHTS)[number]
}

/** What `softmoe train` is told. */
export interface TrainCommandOptions extends DeviceOptions {
  /** Folder of the data set; undefined: Fashion-MNIST; `embedded`: its 10,000 images that ship with the package. */
  readonly data?: string
  /** Name of a preset, or a JSON file with a model's configuration. */
  readonly model: string
  readonly router: string
  readonly experts?: number
  readonly slotsPerExpert?: number
  /** At most one of `steps` and `epochs` is given. */
  readonly steps?: number
  readonly epochs?: number
  readonly batchSize: number
  readonly learningRate: number
  readonly weightDecay: number
  readonly labelSmoothing: number
  readonly clipNorm: number
  readonly precision: (typeof PRECISIONS)[number]
  readonly seed: number
  /** Folder of the run. */
  readonly out: string
  /** Go on from the last checkpoint in `out`. */
  readonly resume: boolean
  /** Steps between evaluations; undefined: once an epoch. */
  readonly evalEvery?: number
  /** Steps between checkpoints; undefined: with every evaluation. */
  readonly checkpointEvery?: number
  /** Checkpoints kept. */
  readonly keep: number
  /** Pixels of padding for random crops. */
  readonly crop: number
  readonly flip: boolean
  readonly randAugment: boolean
  /** Replace the run that `out` holds. */
  readonly overwrite: boolean
  /** Find the operation that makes the first NaN. */
  readonly detectAnomaly: boolean
}

/** What `softmoe eval` is told. */
export interface EvalCommandOptions extends ModelUseOptions {
  readonly data?: string
  readonly batchSize: number
  /** Images of each class for few-shot evaluation of the frozen features; undefined: none. */
  readonly fewShot?: number
  readonly json: boolean
}

/** What `softmoe predict` is told. */
export interface PredictCommandOptions extends ModelUseOptions {
  /** Classes shown for each image. */
  readonly top: number
  readonly json: boolean
}

function option<T>(flags: string, description: string, parse: ValueParser<T>, defaultValue?: T): Option {
  const made = new Option(flags, description).argParser(parse)
  return defaultValue === undefined ? made : made.default(defaultValue)
}

function addDeviceOptions(command: Command): Command {
  return command
    .addOption(option(`--device <${DEVICES.join('|')}>`, 'where to compute', oneOf(DEVICES), 'auto'))
    .addOption(
      option('--threads <count>', 'threads of the CPU backend (default: one a core)', wholeNumber(1, 1024)),
    )
    .addOption(
      option(`--${CONFIG_OPTION} <file>`, 'JSON file with options; those on the command line win', nonEmpty),
    )
}

function addWeightsOption(command: Command): Command {
  return command.addOption(
    option(
      `--weights <${WEIGHTS.join('|')}>`,
      'pack the weights of experts and MLPs in this format first (CPU; default: as they were trained)',
      oneOf(WEIGHTS),
    ),
  )
}

/**
 * Makes the command `train`.
 * @param routers names that `--router` takes; the first is the default
 */
export function trainCommand(routers: readonly string[]): Command {
  const command = new Command('train')
    .description(
      'train a model on images; without --data on Fashion-MNIST: its 70,000 images where Debian has installed them ' +
        '(dataset-fashion-mnist), else the 10,000 that ship with the package',
    )
    .addOption(
      option(
        '--data <folder>',
        'IDX files (train-images-idx3-ubyte[.gz] …), binaries of CIFAR-10 or CIFAR-100, or class folders of PNG ' +
          'images; "embedded": the 10,000 images that ship',
        nonEmpty,
      ),
    )
    .addOption(
      option(
        '--model <name|file>',
        'tiny, small, a size and patch of the papers like S/16, or a JSON file',
        nonEmpty,
        DEFAULTS.model,
      ),
    )
    .addOption(option('--router <name>', `one of ${routers.join(', ')}`, oneOf(routers), routers[0]))
    .addOption(
      option('--experts <count>', "experts of a mixture layer (default: the model's)", wholeNumber(1, 65536)),
    )
    .addOption(option('--slots-per-expert <count>', "slots (default: the model's)", wholeNumber(1, 65536)))
    .addOption(option('--steps <count>', 'steps to train', wholeNumber(1, 1e9)).conflicts('epochs'))
    .addOption(
      option(
        '--epochs <count>',
        `passes over the training set (default: ${DEFAULTS.epochs}, but at most ${DEFAULTS.maxSteps} steps)`,
        realNumber(0, 1e6, true),
      ),
    )
    .addOption(option('--batch-size <images>', 'images in a step', wholeNumber(1, 65536), DEFAULTS.batchSize))
    .addOption(
      option(
        '--learning-rate <rate>',
        'greatest learning rate',
        realNumber(0, 10, true),
        DEFAULTS.learningRate,
      ),
    )
    .addOption(
      option('--weight-decay <factor>', 'decoupled weight decay', realNumber(0, 10), DEFAULTS.weightDecay),
    )
    .addOption(
      option('--label-smoothing <share>', 'of the targets', realNumber(0, 0.999), DEFAULTS.labelSmoothing),
    )
    .addOption(
      option(
        '--clip-norm <norm>',
        'greatest norm of the gradients, 0: any',
        realNumber(0, 1e9),
        DEFAULTS.clipNorm,
      ),
    )
    .addOption(
      option(
        `--precision <${PRECISIONS.join('|')}>`,
        'of activations and products',
        oneOf(PRECISIONS),
        'float32',
      ),
    )
    .addOption(
      option(
        '--crop <pixels>',
        'padding for random crops, 0: none',
        wholeNumber(0, 1024),
        DEFAULTS.cropPadding,
      ),
    )
    .option('--flip', 'mirror images at random', false)
    .option(
      '--rand-augment',
      'two light random changes an image: brightness, contrast, posterise, solarise, shift, shear, rotate',
      false,
    )
    .addOption(
      option(
        '--seed <number>',
        'decides every random number of the run',
        wholeNumber(0, MAX_SEED),
        DEFAULTS.seed,
      ),
    )
    .addOption(option('--out <folder>', 'folder of the run', nonEmpty, DEFAULTS.out))
    .option('--resume', 'go on from the last checkpoint in --out', false)
    .option('--overwrite', 'replace the run that --out holds', false)
    .addOption(
      option('--eval-every <steps>', 'steps between evaluations (default: an epoch)', wholeNumber(1, 1e9)),
    )
    .addOption(
      option(
        '--checkpoint-every <steps>',
        'steps between checkpoints (default: at evaluations)',
        wholeNumber(1, 1e9),
      ),
    )
    .addOption(option('--keep <count>', 'checkpoints kept', wholeNumber(1, 1000), DEFAULTS.keep))
    .option('--detect-anomaly', 'name the operation that makes the first NaN (slow)', false)
  return addDeviceOptions(command)
}

/**
 * What `train` was told. Of `steps` and `epochs`, one on the command line wins over the other in a config file.
 * @throws SoftMoEError `ERR_INVALID_ARGUMENT` when a config file gives both
 */
export function trainOptions(command: Command): TrainCommandOptions {
  const options = command.opts<TrainCommandOptions>()
  const { steps, epochs, ...others } = options
  if (steps === undefined || epochs === undefined) return options
  if (command.getOptionValueSource('steps') === 'cli') return { ...others, steps }
  if (command.getOptionValueSource('epochs') === 'cli') return { ...others, epochs }
  throw new SoftMoEError(
    'ERR_INVALID_ARGUMENT',
    `the config file gives ${steps} steps and ${epochs} epochs; give one of them`,
  )
}

/** Makes the command `eval <run>`. */
export function evalCommand(): Command {
  const command = new Command('eval')
    .description('measure a trained model on a test set: accuracy, by class, and milliseconds an image')
    .argument('<run>', 'folder of a run, or a checkpoint file')
    .addOption(option('--data <folder>', 'data set (default: that of the run)', nonEmpty))
    .addOption(option('--batch-size <images>', 'images in a batch', wholeNumber(1, 65536), 128))
    .addOption(
      option(
        '--few-shot <images>',
        'also fit ridge regression on the features of so many images a class',
        wholeNumber(1, 1e6),
      ),
    )
    .option('--json', 'print JSON', false)
  return addDeviceOptions(addWeightsOption(command))
}

/** Makes the command `predict <run> <images…>`. */
export function predictCommand(): Command {
  const command = new Command('predict')
    .description('classify PNG files')
    .argument('<run>', 'folder of a run, or a checkpoint file')
    .argument('<images...>', 'PNG files; they are resized to the size of the model')
    .addOption(option('--top <classes>', 'classes shown for each image', wholeNumber(1, 1000), 3))
    .option('--json', 'print JSON', false)
  return addDeviceOptions(addWeightsOption(command))
}
