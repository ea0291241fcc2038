#include "machine_limits.h"

#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/isa_detect.h"
#include "cpu/memory_cache.h"
#include "timing.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define LIMITS_SET avx2
#define LIMITS_TARGET __attribute__((target("avx2,fma")))
#define LIMITS_VECTOR __m256
#define LIMITS_SET_ALL _mm256_set1_ps
#define LIMITS_MULTIPLY_ADD _mm256_fmadd_ps
#define LIMITS_ADD _mm256_add_ps
#define LIMITS_LOAD _mm256_loadu_ps
#define LIMITS_STORE _mm256_storeu_ps
#define LIMITS_REGISTER "+x"
#define LIMITS_SUMS 12
#include "limit_kernels.h"

#define LIMITS_SET avx512
#define LIMITS_TARGET __attribute__((target("avx512f,fma")))
#define LIMITS_VECTOR __m512
#define LIMITS_SET_ALL _mm512_set1_ps
#define LIMITS_MULTIPLY_ADD _mm512_fmadd_ps
#define LIMITS_ADD _mm512_add_ps
#define LIMITS_LOAD _mm512_loadu_ps
#define LIMITS_STORE _mm512_storeu_ps
#define LIMITS_REGISTER "+v"
#define LIMITS_SUMS 24
#include "limit_kernels.h"

#elif defined(__aarch64__)
#include <arm_neon.h>

#define LIMITS_SET neon
#define LIMITS_TARGET
#define LIMITS_VECTOR float32x4_t
#define LIMITS_SET_ALL vdupq_n_f32
#define LIMITS_MULTIPLY_ADD(sum, a, b) vfmaq_f32(sum, a, b)
#define LIMITS_ADD vaddq_f32
#define LIMITS_LOAD vld1q_f32
#define LIMITS_STORE vst1q_f32
#define LIMITS_REGISTER "+w"
#define LIMITS_SUMS 24
#include "limit_kernels.h"
#endif

namespace softmoe::bench {
namespace {

// Multiply-adds of one measurement: under a millisecond.
constexpr long kRounds = 200000;
// What is read: more than the caches hold.
constexpr std::size_t kReadBytes = std::size_t{1} << 29;
// How long a way is measured: to find the fastest, and later each time.
constexpr double kFirstSeconds = 0.2, kNextSeconds = 0.01;
constexpr int kFirstTurns = 4;

// A way to reach a limit, and how much `run` does of what it limits: FLOPs or bytes.
struct Way {
  std::string limit;  // float32, bfloat16, int8 or bandwidth; empty: no kernel can come near it
  std::string name;
  double work;
  std::function<void()> run;

  // In 10^9 a second.
  double rate(double for_seconds) const { return work / best_time(run, for_seconds) * 1e-9; }
};

// Runs body(thread) on each thread.
template <class Body>
void on_all(int threads, const Body& body) {
  cpu::ThreadPool::instance().parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) body(i);
  });
}

// Gives each thread a core of its own if there are as many of both: threads that are woken after a pause may
// otherwise share one for some milliseconds.
void pin_threads([[maybe_unused]] int threads) {
#if defined(__linux__)
  cpu_set_t usable;
  if (sched_getaffinity(0, sizeof usable, &usable) != 0 || CPU_COUNT(&usable) != threads) return;
  if (cpu::ThreadPool::instance().threads() != threads) return;
  std::vector<std::size_t> cores;
  for (std::size_t core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &usable)) cores.push_back(core);
  }
  std::atomic<int> here{0};
  on_all(threads, [&](std::int64_t i) {
    cpu_set_t own;
    CPU_ZERO(&own);
    CPU_SET(cores[static_cast<std::size_t>(i)], &own);
    sched_setaffinity(0, sizeof own, &own);
    // No thread may take the part of another.
    for (here.fetch_add(1); here.load() < threads;) sched_yield();
  });
#endif
}

using MultiplyAdds = void (*)(long rounds);
using ReadStreams = float (*)(const char* data, std::size_t bytes, std::size_t streams);

#if defined(__x86_64__)
bool has(const char* set) {
  const auto& sets = cpu::available_instruction_sets();
  return std::find(sets.begin(), sets.end(), set) != sets.end();
}

__attribute__((target("avx512f,avx512bf16"))) void multiply_add_pairs(long count) {
  constexpr int kSums = 24;
  __m512 sums[kSums];
#pragma GCC unroll 24
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  const auto a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(0.5f));
  for (long n = 0; n < count; ++n) {
#pragma GCC unroll 24
    for (int i = 0; i < kSums; ++i) {
      sums[i] = _mm512_dpbf16_ps(sums[i], a, a);
      asm volatile("" : "+v"(sums[i]));
    }
  }
}

__attribute__((target("avx512f,avx512vnni"))) void multiply_add_quads(long count) {
  constexpr int kSums = 24;
  __m512i sums[kSums];
#pragma GCC unroll 24
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_set1_epi32(i);
  const __m512i a = _mm512_set1_epi8(1);
  for (long n = 0; n < count; ++n) {
#pragma GCC unroll 24
    for (int i = 0; i < kSums; ++i) {
      sums[i] = _mm512_dpbusd_epi32(sums[i], a, a);
      asm volatile("" : "+v"(sums[i]));
    }
  }
}

// A tile register holds 16 rows of 64 bytes; TDPBF16PS multiplies 16x32 by 32x16.
constexpr std::size_t kTileBytes = 1024, kRowBytes = 64;
constexpr double kTileFlops = 2.0 * 16 * 16 * 32;

struct TileConfiguration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

__attribute__((target("amx-tile"))) void configure_tiles() {
  alignas(64) TileConfiguration configuration;
  for (int tile = 0; tile < 8; ++tile) configuration.row_bytes[tile] = 64, configuration.rows[tile] = 16;
  _tile_loadconfig(&configuration);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// 2x2 sums of two left and two right tiles: four products a round.
__attribute__((target("amx-tile,amx-bf16"))) void multiply_tiles_in_registers(long count) {
  configure_tiles();
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (long n = 0; n < count; ++n) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}

// The same with every operand loaded from the first-level cache, as a matrix product does.
__attribute__((target("amx-tile,amx-bf16"))) void multiply_loaded_tiles(long count) {
  constexpr std::size_t kGroups = 4;
  alignas(64) std::uint8_t operands[kGroups * 4 * kTileBytes];
  std::memset(operands, 0, sizeof operands);
  configure_tiles();
  for (long n = 0; n < count; ++n) {
    const std::uint8_t* group = operands + static_cast<std::size_t>(n) % kGroups * 4 * kTileBytes;
    _tile_loadd(4, group, kRowBytes);
    _tile_loadd(6, group + 2 * kTileBytes, kRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, group + 3 * kTileBytes, kRowBytes);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, group + kTileBytes, kRowBytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}
#endif

// The ways that this machine has.
class Ways {
 public:
  explicit Ways(int threads) : threads_(threads) {
#if defined(__x86_64__)
    if (has("avx512")) {
      add_peak("float32", "peak float32 FMA", 2.0 * avx512::kSums * avx512::kLanes, avx512::multiply_add);
    } else if (has("avx2")) {
      add_peak("float32", "peak float32 FMA", 2.0 * avx2::kSums * avx2::kLanes, avx2::multiply_add);
    }
    if (has("avx512bf16")) {
      add_peak("bfloat16", "peak bfloat16 dot pairs", 24.0 * 64, multiply_add_pairs);
      add_peak("int8", "peak int8 dot quads", 24.0 * 128, multiply_add_quads);
    }
    if (has("amx")) {
      add_peak("", "peak bfloat16 tiles in registers", 4 * kTileFlops, multiply_tiles_in_registers);
      add_peak("bfloat16", "peak bfloat16 tiles loaded from L1", 4 * kTileFlops, multiply_loaded_tiles);
    }
    if (has("avx512")) {
      add_reads(avx512::read_streams);
    } else if (has("avx2")) {
      add_reads(avx2::read_streams);
    }
#elif defined(__aarch64__)
    add_peak("float32", "peak float32 FMA", 2.0 * neon::kSums * neon::kLanes, neon::multiply_add);
    add_reads(neon::read_streams);
#endif
  }
  ~Ways() {
    if (memory_.data != nullptr) cache_.give_back(memory_, kReadBytes);
  }
  Ways(const Ways&) = delete;
  Ways& operator=(const Ways&) = delete;

  const std::vector<Way>& all() const { return ways_; }

  // The fastest way to a limit, and its rate, tried in turns as the machine's speed changes; narrow products
  // can be done in float32 as well. Null: none.
  std::pair<const Way*, double> fastest(const std::string& limit) const {
    const bool is_narrow = limit == "bfloat16" || limit == "int8";
    std::pair<const Way*, double> best{nullptr, 0};
    for (int turn = 0; turn < kFirstTurns; ++turn) {
      for (const Way& way : ways_) {
        if (way.limit != limit && !(is_narrow && way.limit == "float32")) continue;
        const double rate = way.rate(kFirstSeconds / kFirstTurns);
        if (rate > best.second) best = {&way, rate};
      }
    }
    return best;
  }

 private:
  [[maybe_unused]] void add_peak(const char* limit, const char* name, double flops_of_round,
                                 MultiplyAdds body) {
    const int threads = threads_;
    ways_.push_back({limit, name, flops_of_round * kRounds * threads,
                     [=] { on_all(threads, [&](std::int64_t) { body(kRounds); }); }});
  }

  [[maybe_unused]] void add_reads(ReadStreams read) {
    memory_ = cache_.take(kReadBytes);
    if (memory_.data == nullptr) return;
    const char* const data = static_cast<const char*>(std::memset(memory_.data, 1, kReadBytes));
    const int threads = threads_;
    const std::size_t each = kReadBytes / static_cast<std::size_t>(threads);
    for (const std::size_t streams : {1, 4, 16}) {
      ways_.push_back({"bandwidth", "read, " + std::to_string(streams) + " streams a thread",
                       static_cast<double>(each) * threads, [=] {
                         on_all(threads, [&](std::int64_t i) {
                           const char* own = data + static_cast<std::size_t>(i) * each;
                           volatile float sink = read(own, each, streams);
                           static_cast<void>(sink);
                         });
                       }});
    }
  }

  int threads_;
  // Where tensors lie: on huge pages, which double the rate of some machines.
  cpu::MemoryCache cache_{2 * kReadBytes};
  cpu::MemoryCache::Block memory_;
  std::vector<Way> ways_;
};

}  // namespace

void print_limits(int threads) {
  const Ways ways(threads);
  for (const Way& way : ways.all()) {
    std::printf("%-41s %8.1f %s\n", way.name.c_str(), way.rate(2 * kFirstSeconds),
                way.limit == "bandwidth" ? "GB/s" : "GFLOP/s");
  }
}

void serve_limits(int threads) {
  const Ways ways(threads);
  pin_threads(threads);
  std::map<std::string, const Way*> chosen;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream names(line);
    for (std::string name; names >> name;) {
      const auto [entry, is_first] = chosen.try_emplace(name, nullptr);
      double rate = 0;
      if (is_first) {
        std::tie(entry->second, rate) = ways.fastest(name);
      } else if (entry->second != nullptr) {
        rate = entry->second->rate(kNextSeconds);
      }
      if (entry->second != nullptr) std::printf("%s %.1f ", name.c_str(), rate);
    }
    std::printf("\n");
    std::fflush(stdout);
  }
}

}  // namespace softmoe::bench
