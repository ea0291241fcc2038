import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, lstatSync, mkdirSync, readFileSync, readdirSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { writeFileAtomically } from '../../lib/training/atomic-file.js'
import { writeSafetensors } from '../../lib/training/safetensors.js'
import { folderOf, temporaryFolder } from '../data/temporary-folder.js'

const write = (path: string): Promise<void> =>
  writeFileAtomically(path, (sink) => sink.write(Buffer.from('new')))

it('replaces the old content by the new', async () => {
  const folder = folderOf({ 'a.txt': 'old' })
  await write(join(folder, 'a.txt'))
  expect(readFileSync(join(folder, 'a.txt'), 'utf8')).toBe('new')
  expect(readdirSync(folder)).toEqual(['a.txt'])
})

it('keeps the old content when writing fails half way', async () => {
  const folder = folderOf({ 'a.txt': 'old' })
  const failing = writeFileAtomically(join(folder, 'a.txt'), async (sink) => {
    await sink.write(Buffer.from('new, but not all'))
    throw new Error('half way')
  })
  await expect(failing).rejects.toMatchObject({ code: 'ERR_FILE_WRITE' })
  expect(readFileSync(join(folder, 'a.txt'), 'utf8')).toBe('old')
  expect(readdirSync(folder)).toEqual(['a.txt'])
})

it('removes what a killed writer left, but not what a running one or another machine writes', async () => {
  const host = hostname().replace(/[^\w-]/g, '_')
  const dead = spawnSync(process.execPath, ['-e', '']).pid
  const left = `.a.txt.${host}.${dead}-12345678.tmp`
  const folder = folderOf({
    [left]: 'left',
    [`.a.txt.${host}.${process.pid}-12345678.tmp`]: 'running',
    [`.a.txt.elsewhere.${dead}-12345678.tmp`]: 'of another machine',
  })
  await write(join(folder, 'a.txt'))
  expect(readdirSync(folder)).toHaveLength(3)
  expect(existsSync(join(folder, left))).toBe(false)
})

it('names a missing folder and a folder in the way', async () => {
  const folder = temporaryFolder()
  mkdirSync(join(folder, 'taken'))
  await expect(write(join(folder, 'no', 'a'))).rejects.toThrow(/its folder does not exist/)
  await expect(write(join(folder, 'taken'))).rejects.toThrow(/a folder of that name is in the way/)
  expect(readdirSync(folder)).toEqual(['taken'])
})

it.skipIf(process.getuid?.() === 0)(
  'names a folder that may not be written (skipped for root, who may)',
  async () => {
    const folder = temporaryFolder()
    chmodSync(folder, 0o500)
    await expect(write(join(folder, 'a'))).rejects.toThrow(/permission is denied/)
  },
)

/** Whether this process may mount file systems, and has the commands for it. */
function canMount(): boolean {
  const folder = temporaryFolder()
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', folder]).status !== 0) return false
  spawnSync('umount', [folder])
  return true
}

it.skipIf(!canMount())(
  'reports a full disk and removes what it wrote (skipped where mounting is not allowed)',
  async () => {
    const folder = temporaryFolder()
    spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', folder])
    try {
      const data = new Uint8Array(2 ** 20)
      const writing = writeSafetensors(join(folder, 'a.safetensors'), [
        { name: 'a', dtype: 'U8', shape: [2 ** 20], data },
      ])
      await expect(writing).rejects.toMatchObject({ code: 'ERR_FILE_WRITE' })
      await expect(writing).rejects.toThrow(/a.safetensors cannot be written: the disk is full/)
      expect(readdirSync(folder)).toEqual([])
    } finally {
      spawnSync('umount', [folder])
    }
  },
)

it.runIf(process.platform !== 'win32')('leaves a pipe where it is', async () => {
  const pipe = join(temporaryFolder(), 'pipe')
  expect(spawnSync('mkfifo', [pipe]).status).toBe(0)
  const code = 'ERR_FILE_WRITE'
  await expect(writeFileAtomically(pipe, (sink) => sink.write(Buffer.of(1)))).rejects.toMatchObject({ code })
  expect(lstatSync(pipe).isFIFO()).toBe(true)
})
