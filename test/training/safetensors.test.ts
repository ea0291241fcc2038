import { spawnSync } from 'node:child_process'
import { readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { SoftMoEError } from '../../lib/core/errors.js'
import { SafetensorsFile, writeSafetensors, type SafetensorsTensor } from '../../lib/training/safetensors.js'
import { folderOf, temporaryFolder } from '../data/temporary-folder.js'

function fileOf(header: unknown, dataBytes = 0): Buffer {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  return Buffer.concat([length, json, Buffer.alloc(dataBytes)])
}
const f32 = (shape: readonly number[], begin: number, end: number): unknown => ({
  dtype: 'F32',
  shape,
  data_offsets: [begin, end],
})
const NOTHING = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'

const example: SafetensorsTensor[] = [
  {
    name: 'blocks.0.weight',
    dtype: 'F32',
    shape: [2, 3],
    data: Float32Array.of(1, -2, 3.5, 0, Infinity, 1e-40),
  },
  { name: 'step', dtype: 'I64', shape: [], data: BigInt64Array.of(2n ** 40n) },
  { name: 'bytes', dtype: 'U8', shape: [3], data: Uint8Array.of(1, 2, 3) },
  { name: 'order', dtype: 'I32', shape: [2], data: () => Promise.resolve(Int32Array.of(-7, 7)) },
  { name: 'half', dtype: 'BF16', shape: [2], data: Uint16Array.of(0x3f80, 0xc040) },
  { name: 'empty', dtype: 'F32', shape: [0, 4], data: new Float32Array(0) },
  { name: 'größe "q" \\', dtype: 'F64', shape: [1], data: Float64Array.of(0.1) },
]

describe('safetensors', () => {
  it('returns what was written, with metadata', async () => {
    const path = join(temporaryFolder(), 'a.safetensors')
    await writeSafetensors(path, example, { step: '17', configuration: '{"a":1}' })
    const file = await SafetensorsFile.open(path)
    expect(Object.fromEntries(file.metadata)).toEqual({ step: '17', configuration: '{"a":1}' })
    expect([...file.tensors.keys()].sort()).toEqual(example.map(({ name }) => name).sort())
    expect(file.tensors.get('blocks.0.weight')).toMatchObject({ dtype: 'F32', shape: [2, 3] })
    const weight = await file.readFloat32('blocks.0.weight')
    expect([...weight]).toEqual([1, -2, 3.5, 0, Infinity, Math.fround(1e-40)])
    expect([...(await file.readFloat32('half'))]).toEqual([1, -3])
    expect([...(await file.readFloat32('größe "q" \\'))]).toEqual([Math.fround(0.1)])
    expect(new BigInt64Array((await file.read('step')).buffer)[0]).toBe(2n ** 40n)
    expect([...new Int32Array((await file.read('order')).buffer)]).toEqual([-7, 7])
    expect(await file.readFloat32('empty')).toHaveLength(0)
    await expect(file.read('missing')).rejects.toMatchObject({ code: 'ERR_CHECKPOINT_MISMATCH' })
    await expect(file.readFloat32('order')).rejects.toMatchObject({ code: 'ERR_DTYPE' })
    await file.close()
  })

  it('gives equal files for equal content in any order, each tensor aligned to its element', async () => {
    const folder = temporaryFolder()
    await writeSafetensors(join(folder, 'a'), example)
    await writeSafetensors(join(folder, 'b'), [...example].reverse())
    expect(readFileSync(join(folder, 'a'))).toEqual(readFileSync(join(folder, 'b')))
    const file = await SafetensorsFile.open(join(folder, 'a'))
    const elementBytes: Record<string, number> = { F64: 8, I64: 8, F32: 4, I32: 4, BF16: 2, U8: 1 }
    expect(Number(readFileSync(join(folder, 'a')).readBigUInt64LE(0)) % 8).toBe(0)
    for (const { dtype, begin } of file.tensors.values()) expect(begin % elementBytes[dtype]).toBe(0)
    await file.close()
  })

  it('reads every float16 as the number it means', async () => {
    const bits = Uint16Array.from({ length: 65536 }, (_, at) => at)
    const path = join(temporaryFolder(), 'half')
    await writeSafetensors(path, [{ name: 'x', dtype: 'F16', shape: [65536], data: bits }])
    const file = await SafetensorsFile.open(path)
    const values = await file.readFloat32('x')
    await file.close()
    const known = [values[0x3c00], values[0xc000], values[0x7bff], values[1], values[0x0400]]
    expect(known).toEqual([1, -2, 65504, 2 ** -24, 2 ** -14])
    expect([values[0x7c00], values[0xfc00], values[0x7e00]]).toEqual([Infinity, -Infinity, Number.NaN])
    const outOfOrder = values.subarray(1, 0x7c01).findIndex((value, at) => !(value > values[at]))
    expect(outOfOrder).toBe(-1)
  })

  const first = f32([1], 0, 4)
  it.each([
    ['an empty file', Buffer.alloc(0), /alone takes 8/],
    ['text', Buffer.from('{"this": "is JSON, but no safetensors file"}'), /states a header of/],
    ['a giant header length', Buffer.from('ffffffffffffff7f', 'hex'), /truncated or another format/],
    ['no JSON', fileOf('{"a":'), /not JSON/],
    ['invalid UTF-8', fileOf('{"abcd": 1}').fill(0xff, 10, 12), /not JSON/],
    ['an array', fileOf('[]'), /not a JSON object/],
    ['white space before the header', fileOf(' {}'), /not a JSON object/],
    ['a repeated tensor', fileOf(`{"a":${NOTHING},"\\u0061":${NOTHING}}`), /"a" twice/],
    ['a repeated field', fileOf(`{"a":{"dtype":"U8",${NOTHING.slice(1)}}`), /"dtype" twice/],
    ['metadata that is no text', fileOf({ __metadata__: { step: 3 } }), /"step" is not a string/],
    ['an unknown type', fileOf({ a: { dtype: 'F31', shape: [1], data_offsets: [0, 4] } }, 4), /type "F31"/],
    [
      'a type named like a method',
      fileOf({ a: { dtype: 'toString', shape: [1], data_offsets: [0, 4] } }, 4),
      /type/,
    ],
    [
      'an unknown field',
      fileOf({ a: { dtype: 'U8', shape: [1], data_offsets: [0, 1], x: 1 } }, 1),
      /field "x"/,
    ],
    ['a negative size', fileOf({ a: f32([-1], 0, 4) }, 4), /impossible shape/],
    ['a giant shape', fileOf({ a: f32([2 ** 53 - 1, 2 ** 53 - 1], 0, 4) }, 4), /takes .* bytes/],
    ['offsets that are no pair', fileOf({ a: { dtype: 'U8', shape: [1], data_offsets: [0] } }, 1), /offsets/],
    ['offsets reversed', fileOf({ a: f32([1], 4, 0) }, 4), /span -4/],
    ['offsets beyond the file', fileOf({ a: f32([2], 0, 8) }, 4), /truncated/],
    ['a gap', fileOf({ a: first, b: f32([1], 8, 12) }, 12), /"b" leaves a gap/],
    ['an overlap', fileOf({ a: first, b: f32([1], 2, 6) }, 6), /"b" overlaps/],
    ['two tensors in one place', fileOf({ a: first, b: first }, 4), /overlaps/],
    ['bytes left over', fileOf({ a: first }, 5), /belong to no tensor/],
  ])('refuses %s', async (_, bytes, message) => {
    const path = join(folderOf({ file: bytes }), 'file')
    const error: unknown = await SafetensorsFile.open(path).catch((caught: unknown) => caught)
    expect(error).toMatchObject({ name: 'SoftMoEError', code: 'ERR_FILE_FORMAT' })
    expect(String(error)).toMatch(message)
  })

  it('refuses to read from a file that was closed', async () => {
    const path = join(temporaryFolder(), 'file')
    await writeSafetensors(path, example)
    const file = await SafetensorsFile.open(path)
    const [name] = file.tensors.keys()
    await file.close()
    await expect(file.read(name ?? '')).rejects.toMatchObject({ code: 'ERR_DISPOSED' })
  })

  it('refuses every truncation of a file', async () => {
    const folder = temporaryFolder()
    await writeSafetensors(join(folder, 'whole'), example, { a: 'b' })
    const whole = readFileSync(join(folder, 'whole'))
    for (let length = 0; length < whole.length; length++) {
      writeFileSync(join(folder, 'cut'), whole.subarray(0, length))
      await expect(SafetensorsFile.open(join(folder, 'cut'))).rejects.toMatchObject({
        code: 'ERR_FILE_FORMAT',
      })
    }
  })

  it('takes any damage without anything but a file or a SoftMoEError', async () => {
    const folder = temporaryFolder()
    await writeSafetensors(join(folder, 'whole'), example, { a: 'b' })
    const whole = readFileSync(join(folder, 'whole'))
    const change = fc.tuple(fc.nat(whole.length - 1), fc.nat(255))
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 6 }), async (changes) => {
        const bytes = Buffer.from(whole)
        for (const [at, value] of changes) bytes[at] = value
        writeFileSync(join(folder, 'changed'), bytes)
        try {
          const file = await SafetensorsFile.open(join(folder, 'changed'))
          for (const [name, { begin, end }] of file.tensors) {
            expect(await file.read(name)).toHaveLength(end - begin)
          }
          await file.close()
        } catch (error) {
          expect(SoftMoEError.is(error), String(error)).toBe(true)
        }
      }),
      { numRuns: 500 },
    )
  })

  it('is read alike by Python: by its safetensors package if installed, else by struct and json', async () => {
    const path = join(temporaryFolder(), 'a.safetensors')
    await writeSafetensors(path, example, { step: '17' })
    const script = `
import json, struct, sys
path = sys.argv[1]
try:
    from safetensors import safe_open
    with safe_open(path, 'np') as f:
        assert len(f.keys()) == 7
        weight, step, meta = f.get_tensor('blocks.0.weight').ravel().tolist(), int(f.get_tensor('step')), f.metadata()
except ImportError:
    raw = open(path, 'rb').read()
    n, = struct.unpack('<Q', raw[:8])
    head = json.loads(raw[8:8 + n])
    def get(name, code):
        b, e = head[name]['data_offsets']
        return list(struct.unpack('<%d%s' % ((e - b) // struct.calcsize(code), code), raw[8 + n + b:8 + n + e]))
    weight, step, meta = get('blocks.0.weight', 'f'), get('step', 'q')[0], head['__metadata__']
print(json.dumps([weight[:4], step, meta]))`
    const { stdout, stderr, error } = spawnSync('python3', ['-c', script, path], { encoding: 'utf8' })
    if (error) throw error
    expect(stderr).toBe('')
    expect(JSON.parse(stdout)).toEqual([[1, -2, 3.5, 0], 2 ** 40, { step: '17' }])
  })

  it.each([
    [
      'data of another length',
      [{ name: 'a', dtype: 'F32', shape: [3], data: new Float32Array(2) }],
      'ERR_SHAPE',
    ],
    ['a name given twice', [example[2], example[2]], 'ERR_INVALID_ARGUMENT'],
    ['a reserved name', [{ ...example[2], name: '__metadata__' }], 'ERR_INVALID_ARGUMENT'],
  ] as const)('refuses to write %s and leaves nothing behind', async (_, tensors, code) => {
    const folder = temporaryFolder()
    await expect(writeSafetensors(join(folder, 'a'), tensors)).rejects.toMatchObject({ code })
    expect(readdirSync(folder)).toEqual([])
  })
})
