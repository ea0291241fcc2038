// Tile copies, mbarriers and warpgroup products of compute capability 9.0 as nvcc compiles them, with tensor
// maps that the driver makes: against plain C++, and with one mistake each.
#include <cmath>
#include <set>

#include "number_formats.h"
#include "random_values.h"
#include "session.h"

using namespace truth;

namespace {

constexpr unsigned dynamicShared = 2 * 2 * 64 * 64 * 2;

CUtensorMap describe(CUdeviceptr address, int dataType, std::uint64_t elementBytes, std::uint64_t columns,
                     std::uint64_t rows, std::uint64_t pitch, int swizzle) {
  CUtensorMap map;
  const std::uint64_t extents[] = {columns, rows}, strides[] = {pitch * elementBytes};
  const unsigned box[] = {64, 64}, steps[] = {1, 1};
  SUCCEED(cuTensorMapEncodeTiled(&map, dataType, 2, reinterpret_cast<void*>(address), extents, strides, box,
                                 steps, 0, swizzle, 0, 0));
  return map;
}

struct Sizes {
  std::size_t rows, columns, depth;
};

// What the launch returned; the result is compared when it succeeded.
CUresult runProduct(const char* kernel, const Sizes& s, std::uint64_t seed) {
  const Program program = Program::fromFile("hopper.sm90a.fatbin");
  RandomValues random(seed);
  const std::vector<float> a = random.floats(s.rows * s.depth, -1, 1),
                           b = random.floats(s.columns * s.depth, -1, 1);
  std::vector<std::uint16_t> left(a.size()), right(b.size());
  for (std::size_t i = 0; i < a.size(); ++i) left[i] = toBfloat16(a[i]);
  for (std::size_t i = 0; i < b.size(); ++i) right[i] = toBfloat16(b[i]);
  const DeviceArray<std::uint16_t> deviceA(left), deviceB(right);
  // Rows of the result are padded: what lies between them stays.
  const std::size_t pitch = s.columns + 8;
  const DeviceArray<float> deviceC(std::vector<float>(s.rows * pitch, -7));
  const CUtensorMap mapA = describe(deviceA.address(), 9, 2, s.depth, s.rows, s.depth, 3);
  const CUtensorMap mapB = describe(deviceB.address(), 9, 2, s.depth, s.columns, s.depth, 3);
  const CUtensorMap mapC = describe(deviceC.address(), 7, 4, s.columns, s.rows, pitch, 0);
  const CUfunction function = program.function(kernel);
  const Shape shape(static_cast<unsigned>((s.columns + 63) / 64), static_cast<unsigned>((s.rows + 63) / 64),
                    1, 128, dynamicShared);
  const CUresult outcome = run(function, shape, mapA, mapB, mapC, static_cast<int>(s.depth));
  if (outcome != CUDA_SUCCESS) return outcome;
  const std::vector<float> got = deviceC.download();
  for (std::size_t row = 0; row < s.rows; ++row) {
    for (std::size_t column = 0; column < pitch; ++column) {
      double wanted = column < s.columns ? 0 : -7;
      for (std::size_t k = 0; column < s.columns && k < s.depth; ++k)
        wanted += double(fromBfloat16(left[row * s.depth + k])) * fromBfloat16(right[column * s.depth + k]);
      EXPECT(std::fabs(got[row * pitch + column] - wanted) < 1e-4);
    }
  }
  return outcome;
}

}  // namespace

TEST("products of tiles that come and leave by TMA agree with plain C++, ragged edges included") {
  for (const char* const seed : {"0", "1", "2"}) {
    const Session session(Environment{{"SEED", seed}});
    for (const Sizes& sizes :
         {Sizes{64, 64, 64}, Sizes{128, 64, 320}, Sizes{100, 72, 200}, Sizes{8, 200, 24}}) {
      SUCCEED(runProduct("product_right", sizes, 5));
      for (const JournalLine& report : session.reports()) throw Failure("unexpected: " + report.text);
    }
  }
}

TEST("an older device refuses kernels and tensor maps of compute capability 9.0") {
  const Session session(Environment{{"ARCH", "8.0"}});
  std::string refusal;
  try {
    Program::fromFile("hopper.sm90a.fatbin");
  } catch (const Failure& failure) {
    refusal = failure.what();
  }
  EXPECT(refusal.find("returned " + std::to_string(CUDA_ERROR_NO_BINARY_FOR_GPU)) != std::string::npos);
  alignas(64) CUtensorMap map;
  const DeviceArray<float> values(64);
  const std::uint64_t extents[] = {8, 8}, strides[] = {32};
  const unsigned box[] = {8, 8}, steps[] = {1, 1};
  EXPECT_EQUAL(cuTensorMapEncodeTiled(&map, 7, 2, reinterpret_cast<void*>(values.address()), extents, strides,
                                      box, steps, 0, 0, 0, 0),
               CUDA_ERROR_NOT_SUPPORTED);
}

TEST("mistakes with asynchronous tiles and products are caught, whatever the order of warps") {
  const struct {
    const char* kernel;
    std::set<std::string> kinds;  // one of these is reported
  } bugs[] = {{"product_no_arrival_wait", {"race"}},
              {"product_no_product_wait", {"undefined-value", "race"}},
              {"product_early_read", {"undefined-value"}},
              {"product_early_refill", {"race", "deadlock"}},
              {"product_few_bytes", {"race", "deadlock"}}};
  for (const auto& bug : bugs) {
    for (const char* const seed : {"0", "1", "2"}) {
      const Session session(Environment{{"SEED", seed}});
      const CUresult outcome = runProduct(bug.kernel, {64, 64, 320}, 6);
      EXPECT(outcome != CUDA_SUCCESS);
      bool caught = false;
      std::string seen;
      for (const JournalLine& report : session.reports()) {
        seen += "\n       " + report.text;
        caught = caught || bug.kinds.count(report.string("kind"));
      }
      if (!caught) throw Failure(std::string(bug.kernel) + " is not caught, seed " + seed + seen);
    }
  }
}
