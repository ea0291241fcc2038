// nvcuda::wmma against plain C++: the products of bf16, f16 and tf32 are exact in double.
#include <cmath>

#include "number_formats.h"
#include "random_values.h"
#include "session.h"

using namespace truth;

namespace {

struct Tile {
  int m, n, k;
  bool rowMajorA, rowMajorB;
};

// Runs one tile and compares with the sum in double. `encode` gives the stored element, `decode` its value.
template <class Element, class Encode, class Decode>
void check(const Program& program, const char* kernel, const Tile& tile, std::uint64_t seed, Encode encode,
           Decode decode) {
  RandomValues random(seed);
  std::vector<Element> a;
  std::vector<Element> b;
  for (int i = 0; i < tile.m * tile.k; ++i) a.push_back(encode(random.uniform(-2, 2)));
  for (int i = 0; i < tile.k * tile.n; ++i) b.push_back(encode(random.uniform(-2, 2)));
  const std::vector<float> c = random.floats(static_cast<std::size_t>(tile.m * tile.n), -4, 4);
  const DeviceArray<Element> deviceA(a);
  const DeviceArray<Element> deviceB(b);
  const DeviceArray<float> deviceC(c);
  const DeviceArray<float> deviceD(c.size());
  SUCCEED(run(program.function(kernel), {1, 32}, deviceA.address(), deviceB.address(), deviceC.address(),
              deviceD.address()));
  const std::vector<float> got = deviceD.download();
  for (int row = 0; row < tile.m; ++row) {
    for (int column = 0; column < tile.n; ++column) {
      double sum = c[static_cast<std::size_t>(row * tile.n + column)];
      double magnitude = std::fabs(sum);
      for (int i = 0; i < tile.k; ++i) {
        const int placeA = tile.rowMajorA ? row * tile.k + i : i * tile.m + row;
        const int placeB = tile.rowMajorB ? i * tile.n + column : column * tile.k + i;
        const double product = static_cast<double>(decode(a[static_cast<std::size_t>(placeA)])) *
                               decode(b[static_cast<std::size_t>(placeB)]);
        sum += product;
        magnitude += std::fabs(product);
      }
      // One rounding of float32 for each addition.
      const double tolerance = (tile.k + 1) * magnitude * std::ldexp(1.0, -24);
      const double error = std::fabs(got[static_cast<std::size_t>(row * tile.n + column)] - sum);
      if (!(error <= tolerance))
        throw Failure(std::string(kernel) + " at " + std::to_string(row) + "," + std::to_string(column) +
                      " is off by " + std::to_string(error));
    }
  }
}

}  // namespace

TEST("bf16 tiles of 16x16x16 and 32x8x16, row- and column-major") {
  everywhere("wmma.fatbin", [](const Program& program, std::uint64_t seed) {
    check<std::uint16_t>(program, "bf16_16x16x16", {16, 16, 16, true, false}, seed, toBfloat16, fromBfloat16);
    check<std::uint16_t>(program, "bf16_32x8x16", {32, 8, 16, false, true}, seed, toBfloat16, fromBfloat16);
  });
}

TEST("f16 tiles of 16x16x16 and 8x32x16") {
  everywhere("wmma.fatbin", [](const Program& program, std::uint64_t seed) {
    check<std::uint16_t>(program, "f16_16x16x16", {16, 16, 16, true, true}, seed, toHalf, fromHalf);
    check<std::uint16_t>(program, "f16_8x32x16", {8, 32, 16, true, false}, seed, toHalf, fromHalf);
  });
}

TEST("tf32 tiles of 16x16x8, rounded by the kernel") {
  everywhere("wmma.fatbin", [](const Program& program, std::uint64_t seed) {
    const auto keep = [](float value) { return value; };
    check<float>(program, "tf32_16x16x8", {16, 16, 8, true, false}, seed, keep, toTf32);
  });
}
