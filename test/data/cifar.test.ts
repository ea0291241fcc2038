import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { SoftMoEError } from '../../lib/core/errors.js'
import { readCifarFolder } from '../../lib/data/cifar.js'
import { openDataset } from '../../lib/data/open-dataset.js'
import { folderOf } from './temporary-folder.js'

/** Records whose red, green and blue planes hold recognisable values. */
function records(labelsOfRecords: readonly (readonly number[])[]): Buffer {
  return Buffer.concat(
    labelsOfRecords.map((labels, record) =>
      Buffer.concat([
        Buffer.from(labels),
        Buffer.from(
          Uint8Array.from(
            { length: 3072 },
            (_, at) => (Math.floor(at / 1024) * 50 + (at % 1024) + record) % 256,
          ),
        ),
      ]),
    ),
  )
}

function cifar10(overrides: Readonly<Record<string, Uint8Array | string>> = {}): string {
  const files: Record<string, Uint8Array | string> = { 'test_batch.bin': records([[9], [0]]) }
  for (let batch = 1; batch <= 5; batch++)
    files[`data_batch_${batch}.bin`] = records([[batch], [batch + 1], [3]])
  return folderOf({ ...files, ...overrides })
}

describe('readCifarFolder', () => {
  it('reads CIFAR-10: batches in order, planes to pixels', async () => {
    const { train, test } = await openDataset(cifar10())
    expect([train.count, test.count, train.height, train.width, train.channels]).toEqual([15, 2, 32, 32, 3])
    expect([...train.labels]).toEqual([1, 2, 3, 2, 3, 3, 3, 4, 3, 4, 5, 3, 5, 6, 3])
    // Record 1 of batch 1, pixel 70: red 71, green 121, blue 171.
    const at = 3072 + 70 * 3
    expect([...train.images.subarray(at, at + 3)]).toEqual([71, 121, 171])
  })

  it('takes class names from batches.meta.txt and refuses a list of another length', async () => {
    const names = 'airplane automobile bird cat deer dog frog horse ship truck'.split(' ')
    const { train } = await readCifarFolder(cifar10({ 'batches.meta.txt': names.join('\n') + '\n\n' }))
    expect(train.classNames).toEqual(names)
    await expect(readCifarFolder(cifar10({ 'batches.meta.txt': 'one\ntwo' }))).rejects.toThrow(/2 names/)
  })

  it('reads the fine or the coarse labels of CIFAR-100', async () => {
    const folder = folderOf({
      'train.bin': records([
        [19, 99],
        [4, 5],
      ]),
      'test.bin': records([[0, 1]]),
    })
    expect([...(await readCifarFolder(folder)).train.labels]).toEqual([99, 5])
    const coarse = await readCifarFolder(folder, { labels: 'coarse' })
    expect([...coarse.train.labels]).toEqual([19, 4])
    expect(coarse.train.classNames).toHaveLength(20)
  })

  it('reads more records than one buffer holds', async () => {
    const many = records(Array.from({ length: 600 }, (_, record) => [0, record % 100]))
    const { train } = await readCifarFolder(folderOf({ 'train.bin': many, 'test.bin': records([[0, 1]]) }))
    expect(train.labels[599]).toBe(99)
    expect(train.images[599 * 3072]).toBe(599 % 256)
  })

  it.each([
    [
      'a truncated batch',
      { 'data_batch_3.bin': records([[1]]).subarray(0, 3000) },
      'ERR_FILE_FORMAT',
      /data_batch_3.bin has 3000/,
    ],
    ['an empty batch', { 'data_batch_3.bin': '' }, 'ERR_FILE_FORMAT', /0 bytes/],
    ['a label out of range', { 'data_batch_3.bin': records([[10]]) }, 'ERR_FILE_FORMAT', /label 10/],
  ])('refuses %s', async (_, overrides, code, message) => {
    const error: unknown = await readCifarFolder(cifar10(overrides)).catch((caught: unknown) => caught)
    expect(error).toMatchObject({ name: 'SoftMoEError', code })
    expect(String(error)).toMatch(message)
  })

  it('names a missing batch', async () => {
    const folder = folderOf({ 'test_batch.bin': records([[1]]) })
    await expect(readCifarFolder(folder)).rejects.toThrow(/data_batch_1.bin does not exist/)
  })

  it('takes files of any length without anything but a result or a SoftMoEError', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 40 }), fc.nat(2), async (bytes, whole) => {
        const content = Buffer.concat([records(Array.from({ length: whole }, () => [1, 1])), bytes])
        const folder = folderOf({ 'train.bin': content, 'test.bin': content })
        try {
          expect((await readCifarFolder(folder)).train.count).toBe(whole)
        } catch (error) {
          expect(SoftMoEError.is(error), String(error)).toBe(true)
        }
      }),
      { numRuns: 40 },
    )
  })
})
