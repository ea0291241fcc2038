/** One row of the results, and how its numbers follow from the times. */
import type { FloatDType, WeightFormat } from '../lib/index.js'
import type { Pass } from './backbones.js'
import type { BenchCase, Group } from './cases.js'
import type { PeerTimes } from './peers/compare.js'

/** The names of a machine's limits. */
export const LIMIT_NAMES = ['float32', 'bfloat16', 'int8', 'bandwidth'] as const
export type LimitName = (typeof LIMIT_NAMES)[number]

/** What this machine can do at most with some threads. */
export interface Limits {
  /** GFLOP/s. */
  readonly float32: number
  /** GFLOP/s; with AMX, of tiles that are loaded from the first-level cache. */
  readonly bfloat16: number
  /** 10^9 operations a second, of 8-bit products. */
  readonly int8: number
  /** GB/s of reads. */
  readonly bandwidth: number
}

/** What a row computes with. */
export type Formats = Pick<BenchCase, 'dtype' | 'weights'>

/** The limits that bound a row: the peak of its products, and the bandwidth. */
export const boundsOf = ({ dtype, weights }: Formats): readonly [LimitName, LimitName] => [
  weights ?? dtype,
  'bandwidth',
]

/** A peer's result in a row. */
export interface PeerResult {
  readonly name: string
  /** `experts`: it computed only the experts' products, ours the whole layer. */
  readonly part: 'layer' | 'experts'
  readonly medianMs: number
  readonly p10Ms: number
  readonly p90Ms: number
  /** Our median in the same rounds. */
  readonly oursMs: number
  /** Its time over ours: above 1, ours is faster. */
  readonly ratio: number
  /** Largest difference of the results, in relation to the largest element. */
  readonly difference: number
}

/** A peer that was not timed. */
export interface SkippedPeer {
  readonly name: string
  readonly skipped: string
}

/** The peers that were timed. */
export const timedPeers = ({ peers }: Row): PeerResult[] =>
  peers.filter((peer): peer is PeerResult => !('skipped' in peer))

/** One row, as `--json` writes it. */
export interface Row {
  readonly group: Group
  readonly name: string
  readonly device: string
  readonly pass: Pass
  readonly dtype: FloatDType
  /** Format of frozen weights, or null: those that are trained. */
  readonly weights: WeightFormat | null
  readonly threads: number
  readonly shape: Readonly<Record<string, number>>
  readonly runs: number
  readonly medianMs: number
  readonly p10Ms: number
  readonly p90Ms: number
  readonly gflops: number
  readonly gbPerS: number
  /** Medians of those that bound the row, measured in its rounds; null where they are not known. */
  readonly limits: Partial<Limits> | null
  /** `max(FLOPs / peak, bytes / bandwidth)`, or null where the limits are not known. */
  readonly floorMs: number | null
  readonly shareOfFloor: number | null
  readonly peers: readonly (PeerResult | SkippedPeer)[]
}

/** The value below which `share` of the sorted values lie, by linear interpolation. */
export function percentile(sorted: readonly number[], share: number): number {
  const place = share * (sorted.length - 1)
  const low = sorted[Math.floor(place)] ?? Number.NaN
  const high = sorted[Math.ceil(place)] ?? Number.NaN
  return low + (high - low) * (place - Math.floor(place))
}

/** Median and spread of some times. */
export function spreadOf(times: readonly number[]): { medianMs: number; p10Ms: number; p90Ms: number } {
  const sorted = times.toSorted((a, b) => a - b)
  return {
    medianMs: percentile(sorted, 0.5),
    p10Ms: percentile(sorted, 0.1),
    p90Ms: percentile(sorted, 0.9),
  }
}

/** The least time that the machine's peak and bandwidth allow, in milliseconds; null where one is not known. */
export function floorOf(
  row: Formats & Pick<BenchCase, 'flops' | 'bytes'>,
  limits: Partial<Limits>,
): number | null {
  const [peak, bandwidth] = boundsOf(row).map((name) => limits[name])
  if (peak === undefined || bandwidth === undefined) return null
  return 1e-6 * Math.max(row.flops / peak, row.bytes / bandwidth)
}

/** The result of a peer beside ours of the same rounds. */
export function peerResult({ name, part, times, ours, difference }: PeerTimes): PeerResult {
  const spread = spreadOf(times)
  const oursMs = spreadOf(ours).medianMs
  return { name, part, ...spread, oursMs, ratio: spread.medianMs / oursMs, difference }
}

/** @param limits - those measured in the rounds of the times */
export function rowOf(
  benchCase: BenchCase,
  times: readonly number[],
  limits: Partial<Limits> | null,
  peers: Row['peers'] = [],
): Row {
  const { group, name, pass, dtype, weights, threads, shape, flops, bytes } = benchCase
  const spread = spreadOf(times)
  const floorMs = limits === null ? null : floorOf(benchCase, limits)
  return {
    group,
    name,
    device: 'cpu',
    pass,
    dtype,
    weights,
    threads,
    shape,
    runs: times.length,
    ...spread,
    gflops: flops / spread.medianMs / 1e6,
    gbPerS: bytes / spread.medianMs / 1e6,
    limits: limits && Object.fromEntries(boundsOf(benchCase).map((bound) => [bound, limits[bound]])),
    floorMs,
    shareOfFloor: floorMs === null ? null : floorMs / spread.medianMs,
    peers,
  }
}
