// What this machine can do at most: multiply-adds that stay in registers, and reads of memory.
#pragma once

namespace softmoe::bench {

// Prints peaks in GFLOP/s and the bandwidth of reads in GB/s, with `threads` threads of the pool. Machines
// without AVX2 or NEON get no lines.
void print_limits(int threads);

// Measures when it is asked: each line of the input names limits (float32, bfloat16, int8, bandwidth) and is
// answered by one line like `float32 470.1 bandwidth 51.2`, without those that this machine has no way to
// measure. The first time, the fastest way to a limit is looked for; from then on it is measured this way,
// each limit for 10 to 30 ms. Between the lines all threads sleep. Ends with the input.
void serve_limits(int threads);

}  // namespace softmoe::bench
