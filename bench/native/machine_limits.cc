#include "machine_limits.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

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

constexpr long kRounds = 1000000;

// Runs body(thread) on each thread.
template <class Body>
void on_all(int threads, const Body& body) {
  cpu::ThreadPool::instance().parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) body(i);
  });
}

// A peak whose body does `flops_of_round` per round, for a number of rounds.
template <class Body>
void print_peak(const char* name, int threads, double flops_of_round, const Body& body) {
  const double time = best_time([&] { on_all(threads, [&](std::int64_t) { body(kRounds); }); });
  std::printf("peak %-36s %8.1f GFLOP/s\n", name, flops_of_round * kRounds * threads / time * 1e-9);
}

template <class Body>
void print_bandwidth(int threads, const Body& read_streams) {
  const std::size_t bytes = std::size_t{1} << 29;
  // Where tensors lie: on huge pages, which double the rate of some machines.
  cpu::MemoryCache cache(2 * bytes);
  const cpu::MemoryCache::Block block = cache.take(bytes);
  if (block.data == nullptr) return;
  const char* const memory = static_cast<const char*>(std::memset(block.data, 1, bytes));
  const std::size_t each = bytes / static_cast<std::size_t>(threads);
  for (const std::size_t streams : {1, 4, 16}) {
    const double time = best_time([&] {
      on_all(threads, [&](std::int64_t i) {
        volatile float sink = read_streams(memory + static_cast<std::size_t>(i) * each, each, streams);
        static_cast<void>(sink);
      });
    });
    std::printf("read, %2zu streams a thread %6.1f GB/s\n", streams,
                static_cast<double>(bytes) / time * 1e-9);
  }
  cache.give_back(block, bytes);
}

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

}  // namespace

void print_limits([[maybe_unused]] int threads) {
#if defined(__x86_64__)
  if (has("avx512")) {
    print_peak("float32 FMA", threads, 2.0 * avx512::kSums * avx512::kLanes, avx512::multiply_add);
  } else if (has("avx2")) {
    print_peak("float32 FMA", threads, 2.0 * avx2::kSums * avx2::kLanes, avx2::multiply_add);
  }
  if (has("avx512bf16")) print_peak("bfloat16 dot pairs", threads, 24.0 * 64, multiply_add_pairs);
  if (has("avx512bf16")) print_peak("int8 dot quads", threads, 24.0 * 128, multiply_add_quads);
  if (has("amx")) {
    print_peak("bfloat16 tiles in registers", threads, 4 * kTileFlops, multiply_tiles_in_registers);
    print_peak("bfloat16 tiles loaded from L1", threads, 4 * kTileFlops, multiply_loaded_tiles);
  }
  if (has("avx512")) {
    print_bandwidth(threads, avx512::read_streams);
  } else if (has("avx2")) {
    print_bandwidth(threads, avx2::read_streams);
  }
#elif defined(__aarch64__)
  print_peak("float32 FMA", threads, 2.0 * neon::kSums * neon::kLanes, neon::multiply_add);
  print_bandwidth(threads, neon::read_streams);
#endif
}

}  // namespace softmoe::bench
