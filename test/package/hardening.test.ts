// What the linker and the compiler put into the addon against the exploitation of bugs, read from the file itself.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { nativeFile } from '../../lib/native.js'

// ELF64, little endian; numbers from the System V gABI and its GNU extensions.
const PT_LOAD = 1
const PT_DYNAMIC = 2
const PT_GNU_STACK = 0x6474e551
const PT_GNU_RELRO = 0x6474e552
const EXECUTABLE = 1
const WRITABLE = 2
const DT_NEEDED = 1
const DT_STRTAB = 5
const DT_STRSZ = 10
const DT_RPATH = 15
const DT_TEXTREL = 22
const DT_FLAGS = 30
const DT_RUNPATH = 29
const DT_FLAGS_1 = 0x6ffffffb
const DF_BIND_NOW = 8
const DF_1_NOW = 1

interface Segment {
  readonly type: number
  readonly flags: number
  readonly offset: number
  readonly address: number
  readonly size: number
}

interface Elf {
  readonly segments: readonly Segment[]
  readonly dynamic: readonly (readonly [tag: number, value: number])[]
  readonly strings: string
}

function readElf(file: string): Elf {
  const bytes = readFileSync(file)
  const word = (at: number): number => Number(bytes.readBigUInt64LE(at))
  expect(bytes.subarray(0, 6)).toEqual(Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1]))
  const [start, size, count] = [word(32), bytes.readUInt16LE(54), bytes.readUInt16LE(56)]
  const segments = Array.from({ length: count }, (_, i) => {
    const at = start + i * size
    return {
      type: bytes.readUInt32LE(at),
      flags: bytes.readUInt32LE(at + 4),
      offset: word(at + 8),
      address: word(at + 16),
      size: word(at + 32),
    }
  })
  const table = segments.find((segment) => segment.type === PT_DYNAMIC)
  if (table === undefined) throw new Error(`${file} has no dynamic section`)
  const dynamic = Array.from(
    { length: table.size / 16 },
    (_, i) => [word(table.offset + 16 * i), word(table.offset + 16 * i + 8)] as const,
  )
  const value = (tag: number): number => dynamic.find(([other]) => other === tag)?.[1] ?? 0
  const address = value(DT_STRTAB)
  const holder = segments.find(
    (segment) =>
      segment.type === PT_LOAD && segment.address <= address && address < segment.address + segment.size,
  )
  if (holder === undefined) throw new Error(`${file} has no table of strings`)
  const at = holder.offset + address - holder.address
  return { segments, dynamic, strings: bytes.toString('latin1', at, at + value(DT_STRSZ)) }
}

describe.runIf(process.platform === 'linux')('the built addon', () => {
  const elf = readElf(nativeFile)
  const ofType = (type: number): readonly Segment[] => elf.segments.filter((segment) => segment.type === type)
  const valuesOf = (tag: number): readonly number[] =>
    elf.dynamic.filter(([other]) => other === tag).map(([, value]) => value)
  const names = new Set(elf.strings.split('\0'))

  it('resolves all symbols at load and makes their table read-only (full RELRO)', () => {
    expect(ofType(PT_GNU_RELRO)).toHaveLength(1)
    const flags = valuesOf(DT_FLAGS)[0] ?? 0
    const flags1 = valuesOf(DT_FLAGS_1)[0] ?? 0
    expect((flags & DF_BIND_NOW) !== 0 || (flags1 & DF_1_NOW) !== 0).toBe(true)
  })

  it('has no executable stack, no segment that is writable and executable, no relocations in code', () => {
    expect(ofType(PT_GNU_STACK).map((segment) => segment.flags & EXECUTABLE)).toEqual([0])
    const both = EXECUTABLE | WRITABLE
    expect(elf.segments.filter((segment) => (segment.flags & both) === both)).toEqual([])
    expect(valuesOf(DT_TEXTREL)).toEqual([])
  })

  it('guards stack frames and calls the checked functions of the C library', () => {
    expect(names).toContain('__stack_chk_fail')
    expect([...names].filter((name) => /^__\w+_chk$/.test(name))).not.toEqual([])
  })

  it('looks for libraries nowhere but where the system has them, and for none of CUDA or C++', () => {
    expect([...valuesOf(DT_RPATH), ...valuesOf(DT_RUNPATH)]).toEqual([])
    const needed = valuesOf(DT_NEEDED).map((at) => elf.strings.slice(at, elf.strings.indexOf('\0', at)))
    expect(needed.filter((name) => /cuda|nvidia|stdc\+\+|gcc/.test(name))).toEqual([])
    expect(needed.length).toBeGreaterThan(0)
  })
})
