// Sums over the middle axis of [outer, middle, inner]: y[o, i] = scale * sum over m of x[o, m, i].
//
// The order of a sum depends on `middle` alone: blocks of kBlockRows rows are summed in ascending order, then
// the blocks' sums. So the work may be divided by blocks, too, without a change of a bit. When inner is 1 a
// block is contiguous and is summed by lanes.
#include <cstdint>

#include "cpu/kernels/cpu_kernels.h"

#include "cpu/kernels/isa.h"

#include "cpu/kernels/loops.h"
#include "cpu/kernels/simd.h"

namespace softmoe::cpu::SOFTMOE_ISA {
namespace {

constexpr std::int64_t kBlockRows = 128;
constexpr std::int64_t kStrip =
    256;  // columns that are summed side by side: their sums stay in the first cache

// sums[i] = sum over rows [begin, end) of x[m, first + i] for i < width.
template <class T>
void sum_rows(const T* x, std::int64_t inner, std::int64_t begin, std::int64_t end, std::int64_t first,
              std::int64_t width, float* sums) {
  by_vectors(0, width, [&](std::int64_t i, std::int64_t n) {
    Vec sum{};
    for (std::int64_t m = begin; m < end; ++m) sum += load_some(x + m * inner + first + i, n);
    store_some(sums + i, sum, n);
  });
}

template <class T>
float sum_contiguous(const T* x, std::int64_t count) {
  Vec sums{};
  by_vectors(0, count, [&](std::int64_t i, std::int64_t n) { sums += load_some(x + i, n); });
  return sum_lanes(sums);
}

}  // namespace

void CpuKernels::run(const SumMiddle& args) {
  const std::int64_t outer = args.outer, middle = args.middle, inner = args.inner;
  const std::int64_t blocks = ceil_div(middle, kBlockRows), strips = ceil_div(inner, kStrip);
  const float scale = static_cast<float>(args.scale);
  with_float_types(args.x.dtype, args.y.dtype, [&](auto x_type, auto y_type) {
    const auto* x = args.x.as<const decltype(x_type)>();
    auto* y = args.y.as<decltype(y_type)>();

    // Sums of the block of one strip.
    const auto sum_block = [&](std::int64_t o, std::int64_t block, std::int64_t strip, float* sums) {
      const std::int64_t begin = block * kBlockRows, end = smaller(middle, begin + kBlockRows);
      const std::int64_t first = strip * kStrip;
      if (inner == 1) {
        sums[0] = sum_contiguous(x + o * middle + begin, end - begin);
      } else {
        sum_rows(x + o * middle * inner, inner, begin, end, first, smaller(kStrip, inner - first), sums);
      }
    };
    const auto write = [&](std::int64_t o, std::int64_t strip, const float* totals) {
      const std::int64_t first = strip * kStrip;
      by_vectors(0, smaller(kStrip, inner - first), [&](std::int64_t i, std::int64_t n) {
        store_some(y + o * inner + first + i, scale * load_some(totals + i, n), n);
      });
    };

    const std::int64_t tasks = outer * strips;
    if (blocks <= 1 || tasks >= 4 * pool.threads()) {
      for_rows(pool, tasks, middle * smaller(inner, kStrip), [&](std::int64_t task, int) {
        float totals[kStrip] = {}, sums[kStrip];
        for (std::int64_t block = 0; block < blocks; ++block) {
          sum_block(task / strips, block, task % strips, block == 0 ? totals : sums);
          for (std::int64_t i = 0; block > 0 && i < smaller(kStrip, inner); ++i) totals[i] += sums[i];
        }
        write(task / strips, task % strips, totals);
      });
      return;
    }
    // Few long sums: first those of all blocks, then their totals.
    Arena::Frame frame(scratch.stream());
    float* partial = scratch.stream().take<float>(tasks * blocks * kStrip);
    for_rows(pool, tasks * blocks, kBlockRows * smaller(inner, kStrip), [&](std::int64_t part, int) {
      const std::int64_t task = part / blocks;
      sum_block(task / strips, part % blocks, task % strips, partial + part * kStrip);
    });
    for (std::int64_t task = 0; task < tasks; ++task) {
      float* totals = partial + task * blocks * kStrip;
      const std::int64_t width = smaller(kStrip, inner - task % strips * kStrip);
      for (std::int64_t block = 1; block < blocks; ++block) {
        for (std::int64_t i = 0; i < width; ++i) totals[i] += totals[block * kStrip + i];
      }
      write(task / strips, task % strips, totals);
    }
  });
}

}  // namespace softmoe::cpu::SOFTMOE_ISA

#include "cpu/kernels/isa_end.h"
