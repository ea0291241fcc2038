// Kernels of the kind a mixture-of-experts layer is made of, against float64 loops: softmax statistics, a
// GEMM with asynchronous copies and tensor instructions, a capacity top-k by sorting. Ragged sizes
// throughout.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "number_formats.h"
#include "random_values.h"
#include "session.h"

using namespace truth;

namespace {

struct Pair {
  float largest;
  float sum;
};

double relative(double got, double wanted) { return std::fabs(got - wanted) / std::fabs(wanted); }

constexpr std::size_t gemmSharedBytes = 3 * (128 * 32 + 32 * 128) * 2;

}  // namespace

TEST("softmax statistics of rows and columns in one pass") {
  everywhere("softmax_statistics.fatbin", [](const Program& program, std::uint64_t seed) {
    const std::size_t batch = 2, rows = 75, columns = 197, tileRows = 32;
    const std::size_t tiles = (rows + tileRows - 1) / tileRows;
    const std::vector<float> logits = RandomValues(seed).floats(batch * rows * columns, -8, 8);
    const DeviceArray<float> input(logits);
    const DeviceArray<Pair> rowStatistics(batch * rows);
    const DeviceArray<Pair> columnStatistics(batch * tiles * columns);
    SUCCEED(run(program.function("softmax_statistics"), {static_cast<unsigned>(tiles), batch, 1, 256, 0},
                input.address(), rowStatistics.address(), columnStatistics.address(), static_cast<int>(rows),
                static_cast<int>(columns)));
    const std::vector<Pair> ofRows = rowStatistics.download();
    const std::vector<Pair> ofColumns = columnStatistics.download();
    for (std::size_t b = 0; b < batch; ++b) {
      const auto logit = [&](std::size_t row, std::size_t column) {
        return static_cast<double>(logits[(b * rows + row) * columns + column]);
      };
      for (std::size_t row = 0; row < rows; ++row) {
        double largest = -1e30;
        double sum = 0;
        for (std::size_t column = 0; column < columns; ++column)
          largest = std::max(largest, logit(row, column));
        for (std::size_t column = 0; column < columns; ++column)
          sum += std::exp(logit(row, column) - largest);
        EXPECT_EQUAL(static_cast<double>(ofRows[b * rows + row].largest), largest);
        EXPECT(relative(ofRows[b * rows + row].sum, sum) < 1e-6);
      }
      for (std::size_t column = 0; column < columns; ++column) {
        for (std::size_t tile = 0; tile < tiles; ++tile) {
          const std::size_t end = std::min(rows, (tile + 1) * tileRows);
          double largest = -1e30;
          double sum = 0;
          for (std::size_t row = tile * tileRows; row < end; ++row)
            largest = std::max(largest, logit(row, column));
          for (std::size_t row = tile * tileRows; row < end; ++row)
            sum += std::exp(logit(row, column) - largest);
          const Pair got = ofColumns[(b * tiles + tile) * columns + column];
          EXPECT_EQUAL(static_cast<double>(got.largest), largest);
          EXPECT(relative(got.sum, sum) < 1e-6);
        }
      }
    }
  });
}

TEST("bf16 GEMM with bias and GELU through cp.async, ldmatrix and mma.sync") {
  everywhere("gemm_gelu.fatbin", [](const Program& program, std::uint64_t seed) {
    const std::size_t batch = 2, rows = 196, columns = 136, depth = 104;
    RandomValues random(seed);
    const auto encoded = [&](std::size_t count, float scale) {
      std::vector<std::uint16_t> values(count);
      for (std::uint16_t& value : values) value = toBfloat16(random.uniform(-scale, scale));
      return values;
    };
    const std::vector<std::uint16_t> a = encoded(batch * rows * depth, 1);
    const std::vector<std::uint16_t> b = encoded(batch * depth * columns, 0.3f);
    const std::vector<float> bias = random.floats(batch * columns, -1, 1);
    const DeviceArray<std::uint16_t> deviceA(a);
    const DeviceArray<std::uint16_t> deviceB(b);
    const DeviceArray<float> deviceBias(bias);
    const DeviceArray<std::uint16_t> deviceC(batch * rows * columns);
    const CUfunction gemm = program.function("gemm_gelu");
    SUCCEED(cuFuncSetAttribute(gemm, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, gemmSharedBytes));
    SUCCEED(run(gemm, {(columns + 127) / 128, (rows + 127) / 128, batch, 256, gemmSharedBytes},
                deviceA.address(), deviceB.address(), deviceBias.address(), deviceC.address(),
                static_cast<int>(rows), static_cast<int>(columns), static_cast<int>(depth)));
    const std::vector<std::uint16_t> got = deviceC.download();
    for (std::size_t z = 0; z < batch; ++z) {
      for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t column = z; column < columns; column += 3) {
          double sum = bias[z * columns + column];
          for (std::size_t k = 0; k < depth; ++k)
            sum += static_cast<double>(fromBfloat16(a[(z * rows + row) * depth + k])) *
                   fromBfloat16(b[(z * depth + k) * columns + column]);
          const double wanted = 0.5 * sum * (1 + std::erf(sum / std::sqrt(2.0)));
          const double value = fromBfloat16(got[(z * rows + row) * columns + column]);
          // Half a unit in the last place of bf16, and the float32 error of the sum.
          EXPECT(std::fabs(value - wanted) <= std::fabs(wanted) * std::ldexp(1.0, -8) + 1e-5);
        }
      }
    }
  });
}

TEST("the GEMM's counters are those of its shape: tensor instructions, copied bytes, no bank conflicts") {
  const Session session;
  const std::size_t rows = 128, columns = 256, depth = 64;
  const Program program = Program::fromFile("gemm_gelu.fatbin");
  const DeviceArray<std::uint16_t> a(std::vector<std::uint16_t>(rows * depth, 0x3F80));
  const DeviceArray<std::uint16_t> b(std::vector<std::uint16_t>(depth * columns, 0x3F80));
  const DeviceArray<float> bias(std::vector<float>(columns, 0.f));
  const DeviceArray<std::uint16_t> c(rows * columns);
  SUCCEED(run(program.function("gemm_gelu"), {2, 1, 1, 256, 48 << 10}, a.address(), b.address(),
              bias.address(), c.address(), static_cast<int>(rows), static_cast<int>(columns),
              static_cast<int>(depth)));
  EXPECT_EQUAL(fromBfloat16(c.download()[5]), 64.f);
  const JournalLine counters = session.counters().back();
  EXPECT_EQUAL(counters.number("mma"), rows / 16 * columns / 8 * depth / 16);
  EXPECT_EQUAL(counters.number("mmaFlops"), 2.0 * rows * columns * depth);
  // A is read by each of the two column tiles; the bias by both rows of warps, two floats a lane and column
  // pair.
  const double matrices = 2.0 * rows * depth * 2 + depth * columns * 2;
  EXPECT(counters.number("globalLoadBytes") >= matrices);
  EXPECT_EQUAL(counters.number("globalStoreBytes"), rows * columns * 2);
  EXPECT_EQUAL(counters.number("sharedWavefronts"), counters.number("sharedIdealWavefronts"));
}

TEST("capacity top-k by radix sort equals a stable sort") {
  everywhere("capacity_top.fatbin", [](const Program& program, std::uint64_t seed) {
    const int experts = 7, tokens = 777, capacity = 100;
    const std::vector<float> scores =
        RandomValues(seed).floats(static_cast<std::size_t>(experts * tokens), -1, 1);
    const DeviceArray<float> input(scores);
    const DeviceArray<int> chosen(static_cast<std::size_t>(experts * capacity));
    const DeviceArray<int> places(static_cast<std::size_t>(experts * tokens));
    const DeviceArray<int> total(std::vector<int>{0});
    SUCCEED(run(program.function("capacity_top"), {experts, 128}, input.address(), tokens, capacity,
                chosen.address(), places.address(), total.address()));
    std::vector<int> wantedChosen;
    std::vector<int> wantedPlaces(static_cast<std::size_t>(experts * tokens), -1);
    for (int expert = 0; expert < experts; ++expert) {
      const float* of = scores.data() + expert * tokens;
      std::vector<int> order(static_cast<std::size_t>(tokens));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int x, int y) { return of[x] > of[y]; });
      order.resize(static_cast<std::size_t>(capacity));
      wantedChosen.insert(wantedChosen.end(), order.begin(), order.end());
      std::sort(order.begin(), order.end());
      for (int place = 0; place < capacity; ++place)
        wantedPlaces[static_cast<std::size_t>(expert * tokens + order[static_cast<std::size_t>(place)])] =
            place;
    }
    EXPECT(chosen.download() == wantedChosen);
    EXPECT(places.download() == wantedPlaces);
    EXPECT_EQUAL(total.download()[0], experts * capacity);
  });
}
