// What SOFTMOE_DEBUG=1 prints of each launch, and whether its times are those of a GPU.

/** The kernel and the milliseconds between two events around it, or null for any other line. */
export function launchOf(line) {
  const launch = /^softmoe: (\w+) <<<.*>>> .* (\d+\.\d+) ms$/.exec(line)
  return launch === null ? null : { kernel: launch[1], milliseconds: Number(launch[2]) }
}

export function median(values) {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[sorted.length >> 1]
}

export const sum = (values) => values.reduce((total, value) => total + value, 0)

/** Stands where a time would: the emulated driver shows none. */
export const NOT_TIMED = 'not timed'
