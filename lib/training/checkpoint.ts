/**
 * Checkpoints: one safetensors file with the parameters under their own paths (so that the file is also a plain model
 * file, for this package and for Python), the optimiser's state under `optimizer/`, and in the metadata everything else
 * that the next step depends on. Files are written beside their target, synced and renamed.
 */
import { requireFunction, requireObject } from '../core/arguments.js'
import { SoftMoEError } from '../core/errors.js'
import type { RandomState } from '../core/random-source.js'
import type { Tensor } from '../core/tensor.js'
import type { Module } from '../layers/module.js'
import { loadParameters } from '../models/load-parameters.js'
import type { Optimizer } from '../optim/optimizer.js'
import { SafetensorsFile, writeSafetensors, type SafetensorsTensor } from './safetensors.js'

const FORMAT = 'softmoe-checkpoint-1'
const OPTIMIZER_PREFIX = 'optimizer/'

/** What is saved together, and loaded into. */
export interface CheckpointParts {
  readonly model: Module
  /** Without it the file holds the model alone. */
  readonly optimizer?: Optimizer
}

/** What a checkpoint says beside its tensors. */
export interface CheckpointInfo {
  /** Steps that the optimiser has done; 0 if the file holds a model alone. */
  readonly steps: number
  /** State of the model's random numbers. */
  readonly random: RandomState
  /** The caller's own entries. */
  readonly metadata: ReadonlyMap<string, string>
}

function tensorOf(name: string, tensor: Tensor): SafetensorsTensor {
  return { name, dtype: 'F32', shape: tensor.shape, data: () => tensor.data() }
}

/**
 * Saves a model, and with the optimiser everything that makes training go on as if it had never stopped.
 *
 * @param metadata - further texts for the file's header
 * @throws (rejects) `ERR_FILE_WRITE`; an older file of that name then keeps its content
 */
export async function saveCheckpoint(
  path: string,
  parts: CheckpointParts,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  requireParts(parts)
  const { model, optimizer } = parts
  const tensors = [...model.namedParameters()].map(([name, { value }]) => tensorOf(name, value))
  for (const [name, state] of optimizer?.namedState() ?? []) {
    tensors.push(tensorOf(OPTIMIZER_PREFIX + name, state))
  }
  const { seed, draws } = model.random.state
  await writeSafetensors(path, tensors, {
    ...metadata,
    format: FORMAT,
    steps: String(optimizer?.steps ?? 0),
    random: JSON.stringify({ seed, draws }),
  })
}

function requireParts(parts: CheckpointParts): void {
  requireObject('the parts of a checkpoint', parts)
  const { model, optimizer } = parts
  requireObject('the model of a checkpoint', model)
  requireFunction('namedParameters of the model', Reflect.get(model, 'namedParameters'))
  if (optimizer !== undefined) {
    requireObject('the optimizer of a checkpoint', optimizer)
    requireFunction('namedState of the optimizer', Reflect.get(optimizer, 'namedState'))
  }
}

/** Reads what a checkpoint says beside its tensors. @throws (rejects) `ERR_FILE_NOT_FOUND`, `ERR_FILE_FORMAT` */
export async function readCheckpointInfo(path: string): Promise<CheckpointInfo> {
  const file = await SafetensorsFile.open(path)
  try {
    return parseInfo(file)
  } finally {
    await file.close()
  }
}

function parseInfo({ path, metadata }: SafetensorsFile): CheckpointInfo {
  const format = metadata.get('format')
  if (format !== FORMAT) {
    throw new SoftMoEError(
      'ERR_FILE_FORMAT',
      `${path} is no checkpoint of this package: its format is ${format ?? 'not stated'}, wanted ${FORMAT}; ` +
        'load files of other programs with loadParameters',
    )
  }
  const steps = Number(metadata.get('steps'))
  const random = parseRandom(metadata.get('random'))
  if (!Number.isSafeInteger(steps) || steps < 0 || random === undefined) {
    throw new SoftMoEError(
      'ERR_FILE_FORMAT',
      `${path}: its steps or random state are damaged; use another checkpoint`,
    )
  }
  return { steps, random, metadata }
}

function parseRandom(text: string | undefined): RandomState | undefined {
  try {
    const { seed, draws } = JSON.parse(text ?? '') as Partial<RandomState>
    if (Number.isSafeInteger(seed) && Number.isSafeInteger(draws))
      return { seed: seed ?? 0, draws: draws ?? 0 }
  } catch {
    // Damaged, as a wrong type is.
  }
  return undefined
}

/**
 * Loads a checkpoint into a model, and into an optimiser if one is given. Everything is checked first: when something
 * does not fit, nothing is changed.
 *
 * @throws (rejects) `ERR_FILE_NOT_FOUND`; `ERR_FILE_FORMAT` for truncated and foreign files; `ERR_CHECKPOINT_MISMATCH`
 * names the tensor and both shapes
 */
export async function loadCheckpoint(path: string, parts: CheckpointParts): Promise<CheckpointInfo> {
  requireParts(parts)
  const { model, optimizer } = parts
  const file = await SafetensorsFile.open(path)
  try {
    const info = parseInfo(file)
    const state = new Map(optimizer?.namedState())
    for (const [name, tensor] of state) requireState(file, OPTIMIZER_PREFIX + name, tensor.shape)
    requireNothingElse(file, new Set(model.parameters().keys()))
    await loadParameters(model, path)
    for (const name of state.keys())
      optimizer?.setState(name, await file.readFloat32(OPTIMIZER_PREFIX + name))
    optimizer?.restoreSteps(info.steps)
    model.random.state = info.random
    return info
  } finally {
    await file.close()
  }
}

function requireState(file: SafetensorsFile, name: string, shape: readonly number[]): void {
  const entry = file.tensors.get(name)
  const wanted = `[${shape.join(', ')}]`
  if (entry === undefined) {
    throw new SoftMoEError(
      'ERR_CHECKPOINT_MISMATCH',
      `${file.path} has no tensor ${name}, which the optimiser wants with shape ${wanted}; ` +
        'load the model alone, or a checkpoint that was saved with this optimiser',
    )
  }
  if (entry.shape.join() === shape.join()) return
  throw new SoftMoEError(
    'ERR_CHECKPOINT_MISMATCH',
    `${file.path}: tensor ${name} has shape [${entry.shape.join(', ')}], the optimiser wants ${wanted}; ` +
      "build the model with the file's configuration",
  )
}

function requireNothingElse(file: SafetensorsFile, names: ReadonlySet<string>): void {
  for (const [name, { shape }] of file.tensors) {
    if (names.has(name) || name.startsWith(OPTIMIZER_PREFIX)) continue
    throw new SoftMoEError(
      'ERR_CHECKPOINT_MISMATCH',
      `${file.path} holds tensor ${name} of shape [${shape.join(', ')}], which the model does not have; ` +
        "build the model with the file's configuration",
    )
  }
}
