import { existsSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { makeFolder } from '../../lib/training/make-folder.js'
import { temporaryFolder } from '../data/temporary-folder.js'

describe('makeFolder', () => {
  it('makes what is missing, also twice and several at once', async () => {
    const folder = join(temporaryFolder(), 'a', 'b', 'c')
    await Promise.all([makeFolder(folder), makeFolder(folder), makeFolder(join(folder, 'd'))])
    await makeFolder(folder)
    expect(statSync(join(folder, 'd')).isDirectory()).toBe(true)
  })

  it('makes a folder although another call makes those above it meanwhile', async () => {
    const root = temporaryFolder()
    for (let i = 0; i < 100; i++) {
      const folders = ['a/b/c', 'a/b/c/d', 'a/b', 'a/b/c/e/f'].map((name) => join(root, String(i), name))
      await Promise.all(folders.map((folder) => makeFolder(folder)))
      for (const folder of folders) expect(statSync(folder).isDirectory()).toBe(true)
    }
  })

  it('leaves a file in the way alone', async () => {
    const file = join(temporaryFolder(), 'file')
    writeFileSync(file, 'kept')
    await expect(makeFolder(file)).rejects.toMatchObject({ code: 'EEXIST' })
    await expect(makeFolder(join(file, 'a', 'b'))).rejects.toMatchObject({ code: 'ENOTDIR' })
  })

  it.skipIf(!existsSync('/proc/self'))('says at once that /proc takes no folders', async () => {
    await expect(makeFolder('/proc/softmoe/run/checkpoints')).rejects.toMatchObject({
      code: 'ERR_FILE_WRITE',
      message:
        '/proc/softmoe cannot be made: /proc is on a file system that takes no new folders; choose another folder',
    })
  })
})
