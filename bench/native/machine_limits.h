// What this machine can do at most: multiply-adds that stay in registers, and reads of memory.
#pragma once

namespace softmoe::bench {

// Prints peaks in GFLOP/s and the bandwidth of reads in GB/s, with `threads` threads of the pool. Machines
// without AVX2 or NEON get no lines.
void print_limits(int threads);

}  // namespace softmoe::bench
