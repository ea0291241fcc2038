// Cooperative groups against plain C++.
#include <algorithm>
#include <cmath>

#include "random_values.h"
#include "session.h"

using namespace truth;

namespace {

constexpr unsigned blocks = 5;
constexpr unsigned threads = 96;
constexpr std::size_t count = blocks * threads;

}  // namespace

TEST("tiled partitions shuffle, reduce and scan within their tile") {
  everywhere("groups.fatbin", [](const Program& program, std::uint64_t seed) {
    const std::vector<int> values = RandomValues(seed).integers(count, -50, 50);
    const DeviceArray<int> input(values);
    const DeviceArray<int> tile4(count / 4);
    const DeviceArray<int> tile16(count / 16);
    const DeviceArray<int> scans(count);
    SUCCEED(run(program.function("tiled_sums"), {blocks, threads}, input.address(), tile4.address(),
                tile16.address(), scans.address()));
    std::vector<int> wanted4(count / 4, 0);
    std::vector<int> wanted16(count / 16, 0);
    std::vector<int> wantedScans(count);
    for (std::size_t i = 0; i < count; ++i) {
      wanted4[i / 4] += values[i];
      wanted16[i / 16] += values[i];
      wantedScans[i] = wanted16[i / 16];
    }
    EXPECT(tile4.download() == wanted4);
    EXPECT(tile16.download() == wanted16);
    EXPECT(scans.download() == wantedScans);
  });
}

TEST("reductions of a warp find the least integer, the mixed bits and the largest float") {
  everywhere("groups.fatbin", [](const Program& program, std::uint64_t seed) {
    RandomValues random(seed);
    const std::vector<int> values = random.integers(count, -1000000, 1000000);
    const std::vector<float> floats = random.floats(count, -1, 1);
    const DeviceArray<int> input(values);
    const DeviceArray<float> floatInput(floats);
    const DeviceArray<int> least(count / 32);
    const DeviceArray<unsigned> bits(count / 32);
    const DeviceArray<float> largest(count / 32);
    SUCCEED(run(program.function("warp_reductions"), {blocks, threads}, input.address(), floatInput.address(),
                least.address(), bits.address(), largest.address()));
    const std::vector<int> gotLeast = least.download();
    const std::vector<unsigned> gotBits = bits.download();
    const std::vector<float> gotLargest = largest.download();
    for (std::size_t warp = 0; warp < count / 32; ++warp) {
      unsigned mixed = 0;
      for (std::size_t i = warp * 32; i < warp * 32 + 32; ++i) mixed ^= static_cast<unsigned>(values[i]);
      const auto first = static_cast<std::ptrdiff_t>(warp * 32);
      EXPECT_EQUAL(gotLeast[warp], *std::min_element(values.begin() + first, values.begin() + first + 32));
      EXPECT_EQUAL(gotBits[warp], mixed);
      EXPECT_EQUAL(gotLargest[warp], *std::max_element(floats.begin() + first, floats.begin() + first + 32));
    }
  });
}

TEST("coalesced groups append with one atomic a warp: every odd value once") {
  everywhere("groups.fatbin", [](const Program& program, std::uint64_t seed) {
    const std::vector<int> values = RandomValues(seed).integers(count, 0, 1000000);
    const int used = static_cast<int>(count) - 7;
    const DeviceArray<int> input(values);
    const DeviceArray<int> output(std::vector<int>(count, -1));
    const DeviceArray<int> length(std::vector<int>{0});
    SUCCEED(run(program.function("append_odd"), {blocks, threads}, input.address(), used, output.address(),
                length.address()));
    std::vector<int> wanted;
    std::copy_if(values.begin(), values.begin() + used, std::back_inserter(wanted),
                 [](int v) { return v % 2 != 0; });
    EXPECT_EQUAL(length.download()[0], static_cast<int>(wanted.size()));
    std::vector<int> got = output.download();
    got.resize(wanted.size());
    std::sort(got.begin(), got.end());
    std::sort(wanted.begin(), wanted.end());
    EXPECT(got == wanted);
  });
}

TEST("labelled partitions gather the lanes of a warp with the same label") {
  everywhere("groups.fatbin", [](const Program& program, std::uint64_t seed) {
    const std::vector<int> labels = RandomValues(seed).integers(count, 0, 4);
    const DeviceArray<int> input(labels);
    const DeviceArray<int> counts(count);
    SUCCEED(run(program.function("same_label"), {blocks, threads}, input.address(), counts.address()));
    const std::vector<int> got = counts.download();
    for (std::size_t i = 0; i < count; ++i) {
      const auto warp = static_cast<std::ptrdiff_t>(i / 32 * 32);
      EXPECT_EQUAL(got[i], std::count(labels.begin() + warp, labels.begin() + warp + 32, labels[i]));
    }
  });
}

namespace {

template <class... Arguments>
CUresult runCooperative(CUfunction function, unsigned gridBlocks, unsigned blockThreads,
                        Arguments... arguments) {
  void* pointers[] = {static_cast<void*>(&arguments)..., nullptr};
  CUlaunchAttribute attribute{};
  attribute.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
  attribute.value.cooperative = 1;
  const CUlaunchConfig config{gridBlocks, 1, 1, blockThreads, 1, 1, 0, nullptr, &attribute, 1};
  const CUresult launched = cuLaunchKernelEx(&config, function, pointers, nullptr);
  return launched != CUDA_SUCCESS ? launched : cuCtxSynchronize();
}

}  // namespace

TEST("a barrier of the whole grid: blocks read what their neighbours wrote before it") {
  everywhere("groups.fatbin", [](const Program& program, std::uint64_t seed) {
    const std::vector<int> values = RandomValues(seed).integers(count, -50, 50);
    const DeviceArray<int> input(values);
    const DeviceArray<int> output(count);
    SUCCEED(runCooperative(program.function("rotate_blocks"), blocks, threads, input.address(),
                           output.address()));
    const std::vector<int> got = output.download();
    for (std::size_t i = 0; i < count; ++i)
      EXPECT_EQUAL(got[i], values[(i / threads + 3) % blocks * threads + i % threads] + 3);
  });
}

TEST("blocks that spin on an atomic counter wait for all others") {
  everywhere("groups.fatbin", [](const Program& program, std::uint64_t seed) {
    const unsigned gridBlocks = 13;
    const std::vector<int> values = RandomValues(seed).integers(gridBlocks * 32, -50, 50);
    const DeviceArray<int> input(values);
    const DeviceArray<int> parts(gridBlocks);
    const DeviceArray<int> arrived(std::vector<int>{0});
    const DeviceArray<int> sums(gridBlocks);
    SUCCEED(runCooperative(program.function("sum_of_all"), gridBlocks, 32, input.address(), parts.address(),
                           arrived.address(), sums.address()));
    int wanted = 0;
    for (const int value : values) wanted += value;
    for (const int sum : sums.download()) EXPECT_EQUAL(sum, wanted);
  });
}
