// How the native benchmark takes time.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>

#include "cpu/thread_pool.h"

namespace softmoe::bench {

// Time of the clock, or with SOFTMOE_BENCH_CPU_TIME=1 processor time by thread, for machines that others use
// too.
inline double seconds() {
  static const bool counts_cpu_time = std::getenv("SOFTMOE_BENCH_CPU_TIME") != nullptr;
  if (counts_cpu_time) {
    timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec)) /
           cpu::ThreadPool::instance().threads();
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The best of several runs: other processes only ever add to a time.
template <class Body>
double best_time(const Body& body, double for_seconds = 0.4) {
  body();
  double best = 1e30;
  const double end = seconds() + for_seconds;
  do {
    const double start = seconds();
    body();
    best = std::min(best, seconds() - start);
  } while (seconds() < end);
  return best;
}

}  // namespace softmoe::bench
