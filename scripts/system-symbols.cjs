'use strict'
// What a built addon asks of the system's libraries: no newer glibc than the README promises, no libstdc++ (it is
// linked statically) and no CUDA library (the driver is opened at run time).
//
//   node scripts/system-symbols.cjs [file]
const { spawnSync } = require('node:child_process')
const path = require('node:path')

const glibcFloor = '2.35'

function compareVersions(a, b) {
  const [left, right] = [a.split('.').map(Number), b.split('.').map(Number)]
  return left[0] - right[0] || (left[1] ?? 0) - (right[1] ?? 0)
}

/** Returns what is wrong with the file, or null. Where there is no objdump or no ELF, nothing can be said. */
function checkSystemSymbols(file) {
  if (process.platform !== 'linux') return null
  const symbols = spawnSync('objdump', ['-T', file], { encoding: 'utf8' })
  const headers = spawnSync('objdump', ['-p', file], { encoding: 'utf8' })
  if (symbols.status !== 0 || headers.status !== 0) return 'objdump (binutils) does not run'
  const needed = [...symbols.stdout.matchAll(/\(GLIBC_([\d.]+)\)\s+(\S+)/g)]
  const tooNew = needed.filter(([, version]) => compareVersions(version, glibcFloor) > 0)
  if (tooNew.length > 0) {
    const names = tooNew.map(([, version, name]) => `${name} (${version})`).join(', ')
    return `${path.basename(file)} needs a glibc newer than ${glibcFloor}: ${names}`
  }
  const libraries = [...headers.stdout.matchAll(/NEEDED\s+(\S+)/g)].map(([, name]) => name)
  const unwanted = libraries.filter(
    (name) => !/^(libc|libm|libdl|libpthread|ld-linux.*|libc\.musl.*)\.so/.test(name),
  )
  return unwanted.length > 0 ? `${path.basename(file)} links to ${unwanted.join(', ')}` : null
}

module.exports = { checkSystemSymbols, glibcFloor }

if (require.main === module) {
  const file = process.argv[2] ?? path.join(__dirname, '..', 'build', 'Release', 'softmoe.node')
  const problem = checkSystemSymbols(file)
  console.error(
    problem ?? `${path.basename(file)} needs glibc ${glibcFloor} at most and no library beyond it`,
  )
  process.exit(problem ? 1 : 0)
}
