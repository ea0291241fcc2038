/** `--config FILE`: options from a JSON object, under those given on the command line and over the defaults. */
import { readFileSync } from 'node:fs'
import { InvalidArgumentError, type Command, type Option } from 'commander'
import { SoftMoEError } from '../core/errors.js'
import { nearestName } from '../core/nearest-name.js'
import { fileError } from '../data/files.js'

/** The option that names the file. */
export const CONFIG_OPTION = 'config'

/**
 * Sets every option of a command that the file names and the command line does not. Names are those of the options,
 * `batchSize` or `batch-size`; values are checked as those of the command line are.
 * @throws SoftMoEError `ERR_FILE_NOT_FOUND`, `ERR_FILE_READ`, `ERR_FILE_FORMAT`; `ERR_INVALID_ARGUMENT` for unknown names
 * and wrong values
 */
export function applyConfigFile(command: Command): void {
  const path = command.getOptionValue(CONFIG_OPTION) as string | undefined
  if (path === undefined) return
  const options = command.options.filter((option) => option.attributeName() !== CONFIG_OPTION)
  for (const [key, value] of Object.entries(readObject(path))) {
    const option = options.find((one) => one.attributeName() === key || one.name() === key)
    if (!option) {
      const nearest = nearestName(
        key,
        options.map((one) => one.attributeName()),
      )
      throw new SoftMoEError(
        'ERR_INVALID_ARGUMENT',
        `${path}: ${command.name()} has no option ${JSON.stringify(key)}; did you mean ${nearest}?`,
      )
    }
    if (command.getOptionValueSource(option.attributeName()) === 'cli') continue
    command.setOptionValueWithSource(option.attributeName(), parse(path, key, option, value), 'config')
  }
}

function readObject(path: string): object {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (cause) {
    throw fileError(path, cause)
  }
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : ''
    throw new SoftMoEError('ERR_FILE_FORMAT', `${path} is not JSON (${reason}); correct it`, { cause })
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value
  throw new SoftMoEError('ERR_FILE_FORMAT', `${path} holds no JSON object; write {"steps": 1000, …}`)
}

function parse(path: string, key: string, option: Option, value: unknown): unknown {
  const refuse = (wanted: string): never => {
    throw new SoftMoEError(
      'ERR_INVALID_ARGUMENT',
      `${path}: ${key} is ${JSON.stringify(value)}, which is not valid. ${wanted}`,
    )
  }
  if (option.isBoolean() || option.negate) {
    return typeof value === 'boolean' ? value : refuse('Give true or false.')
  }
  if (typeof value !== 'string' && typeof value !== 'number') return refuse('Give a text or a number.')
  if (!option.parseArg) return String(value)
  try {
    const parseValue: (text: string, previous: unknown) => unknown = option.parseArg
    return parseValue(String(value), undefined)
  } catch (error) {
    if (error instanceof InvalidArgumentError) return refuse(error.message)
    throw error
  }
}
