'use strict'
// Compares what kernels did on the emulated CUDA driver with the least they could do:
//   node scripts/roofline.cjs COUNTERS [MINIMA]
// COUNTERS is the file of SOFTMOE_EMULATOR_COUNTERS, one JSON object a launch. MINIMA is a JSON object
// { "<kernel>": { "globalBytes": N, "mma": N, … } } with the analytic minimum of one launch, under the same names as
// below; a kernel launched with several shapes has an array with one such object a launch, in order.
// Times are predicted, never measured: sectors over bandwidth, as if no cache helped, and tensor work over rate of an
// H100 SXM (data sheet).
const fs = require('node:fs')

const bytesPerSector = 32
const bytesPerSecond = 3.35e12
const tensorFlopPerSecond = 989e12

const [countersPath, minimaPath] = process.argv.slice(2)
if (!countersPath) {
  console.error('usage: node scripts/roofline.cjs COUNTERS [MINIMA]')
  process.exit(2)
}
const launches = fs
  .readFileSync(countersPath, 'utf8')
  .split('\n')
  .filter((line) => line.startsWith('{'))
  .map((line) => JSON.parse(line))
const minima = minimaPath ? JSON.parse(fs.readFileSync(minimaPath, 'utf8')) : {}

// The figures of one launch.
function figures({ counters }) {
  const globalBytes = counters.globalLoadBytes + counters.globalStoreBytes
  return {
    globalBytes,
    globalSectors: counters.globalLoadSectors + counters.globalStoreSectors,
    globalRequests: counters.globalLoadRequests + counters.globalStoreRequests,
    sharedWavefronts: counters.sharedWavefronts,
    sharedRequests: counters.sharedRequests,
    mma: counters.mma,
    mmaFlops: counters.mmaFlops,
    warpInstructions: counters.warpInstructions,
  }
}

const kernels = new Map()
for (const launch of launches) {
  const entry = kernels.get(launch.kernel) ?? { launches: 0, measured: {}, least: {} }
  const minimum = minima[launch.kernel]
  const least = (Array.isArray(minimum) ? minimum[entry.launches] : minimum) ?? {}
  for (const [name, value] of Object.entries(figures(launch))) {
    entry.measured[name] = (entry.measured[name] ?? 0) + value
    if (name in least) entry.least[name] = (entry.least[name] ?? 0) + least[name]
  }
  entry.launches += 1
  kernels.set(launch.kernel, entry)
}

const ratio = (value, to) => (to > 0 ? (value / to).toFixed(2) : '-')
for (const [kernel, { launches: count, measured, least }] of kernels) {
  console.log(`${kernel}: ${count} launch${count === 1 ? '' : 'es'}`)
  for (const [name, value] of Object.entries(measured)) {
    const against = name in least ? `  minimum ${least[name]}  ratio ${ratio(value, least[name])}` : ''
    console.log(`  ${name.padEnd(18)} ${String(value).padStart(14)}${against}`)
  }
  const microseconds =
    Math.max(
      (measured.globalSectors * bytesPerSector) / bytesPerSecond,
      measured.mmaFlops / tensorFlopPerSecond,
    ) * 1e6
  console.log(
    `  sectors a request ${ratio(measured.globalSectors, measured.globalRequests)}` +
      `, bytes a sector ${ratio(measured.globalBytes, measured.globalSectors)}` +
      `, wavefronts a shared request ${ratio(measured.sharedWavefronts, measured.sharedRequests)}` +
      `, predicted ${microseconds.toFixed(2)} us`,
  )
}
