// CUB's block and warp primitives against plain C++.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "random_values.h"
#include "session.h"

using namespace truth;

namespace {

constexpr unsigned blocks = 6;
constexpr unsigned threads = 128;
constexpr unsigned items = 4;
constexpr unsigned perBlock = threads * items;
constexpr unsigned bins = 32;

}  // namespace

TEST("BlockScan gives inclusive and exclusive sums and the total") {
  everywhere("cub_block.fatbin", [](const Program& program, std::uint64_t seed) {
    const std::vector<int> values = RandomValues(seed).integers(blocks * perBlock, -1000, 1000);
    const DeviceArray<int> input(values);
    const DeviceArray<int> inclusive(values.size());
    const DeviceArray<int> exclusive(values.size());
    const DeviceArray<int> totals(blocks);
    SUCCEED(run(program.function("block_scan"), {blocks, threads}, input.address(), inclusive.address(),
                exclusive.address(), totals.address()));
    const std::vector<int> gotInclusive = inclusive.download();
    const std::vector<int> gotExclusive = exclusive.download();
    const std::vector<int> gotTotals = totals.download();
    for (unsigned block = 0; block < blocks; ++block) {
      int sum = 0;
      for (unsigned i = block * perBlock; i < (block + 1) * perBlock; ++i) {
        EXPECT_EQUAL(gotExclusive[i], sum);
        sum += values[i];
        EXPECT_EQUAL(gotInclusive[i], sum);
      }
      EXPECT_EQUAL(gotTotals[block], sum);
    }
  });
}

TEST("BlockRadixSort is a stable descending sort of keys with their values") {
  everywhere("cub_block.fatbin", [](const Program& program, std::uint64_t seed) {
    std::vector<float> keys = RandomValues(seed).floats(blocks * perBlock, -3, 3);
    for (float& key : keys) key = std::round(key * 16) / 16;  // many equal keys
    for (float& key : keys)
      if (key == 0) key = 0;  // one zero only: the sort tells -0 from +0
    std::vector<int> values(keys.size());
    std::iota(values.begin(), values.end(), 0);
    const DeviceArray<float> deviceKeys(keys);
    const DeviceArray<int> deviceValues(values);
    SUCCEED(run(program.function("block_radix_sort"), {blocks, threads}, deviceKeys.address(),
                deviceValues.address()));
    for (unsigned block = 0; block < blocks; ++block)
      std::stable_sort(values.begin() + block * perBlock, values.begin() + (block + 1) * perBlock,
                       [&](int a, int b) {
                         return keys[static_cast<std::size_t>(a)] > keys[static_cast<std::size_t>(b)];
                       });
    EXPECT(deviceValues.download() == values);
    const std::vector<float> sorted = deviceKeys.download();
    for (std::size_t i = 0; i < sorted.size(); ++i)
      EXPECT_EQUAL(sorted[i], keys[static_cast<std::size_t>(values[i])]);
  });
}

TEST("BlockReduce gives sums in double and the largest float") {
  everywhere("cub_block.fatbin", [](const Program& program, std::uint64_t seed) {
    const std::vector<float> values = RandomValues(seed).floats(blocks * threads, -1, 1);
    const DeviceArray<float> input(values);
    const DeviceArray<double> sums(blocks);
    const DeviceArray<float> largest(blocks);
    SUCCEED(run(program.function("block_reduce"), {blocks, threads}, input.address(), sums.address(),
                largest.address()));
    const std::vector<double> gotSums = sums.download();
    const std::vector<float> gotLargest = largest.download();
    for (unsigned block = 0; block < blocks; ++block) {
      const auto begin = values.begin() + block * threads;
      EXPECT(std::abs(gotSums[block] - std::accumulate(begin, begin + threads, 0.0)) < 1e-12);
      EXPECT_EQUAL(gotLargest[block], *std::max_element(begin, begin + threads));
    }
  });
}

TEST("BlockHistogram counts by atomics and by sorting") {
  everywhere("cub_block.fatbin", [](const Program& program, std::uint64_t seed) {
    RandomValues random(seed);
    std::vector<unsigned char> samples(blocks * perBlock);
    for (unsigned char& sample : samples) sample = static_cast<unsigned char>(random.bits() % bins);
    std::vector<unsigned> wanted(blocks * bins, 0);
    for (std::size_t i = 0; i < samples.size(); ++i) ++wanted[i / perBlock * bins + samples[i]];
    const DeviceArray<unsigned char> input(samples);
    const DeviceArray<unsigned> atomic(wanted.size());
    const DeviceArray<unsigned> sorted(wanted.size());
    SUCCEED(run(program.function("block_histogram"), {blocks, threads}, input.address(), atomic.address(),
                sorted.address()));
    EXPECT(atomic.download() == wanted);
    EXPECT(sorted.download() == wanted);
  });
}

TEST("WarpReduce and WarpScan work on whole warps and on logical warps of eight lanes") {
  everywhere("cub_warp.fatbin", [](const Program& program, std::uint64_t seed) {
    const std::vector<int> values = RandomValues(seed).integers(blocks * 64, -99, 99);
    for (const unsigned width : {32u, 8u}) {
      const DeviceArray<int> input(values);
      const DeviceArray<int> sums(values.size() / width);
      const DeviceArray<int> inclusive(values.size());
      const DeviceArray<int> exclusive(values.size());
      SUCCEED(run(program.function("warp_" + std::to_string(width)), {blocks, 64}, input.address(),
                  sums.address(), inclusive.address(), exclusive.address()));
      const std::vector<int> gotSums = sums.download();
      const std::vector<int> gotInclusive = inclusive.download();
      const std::vector<int> gotExclusive = exclusive.download();
      for (std::size_t first = 0; first < values.size(); first += width) {
        int sum = 0;
        for (std::size_t i = first; i < first + width; ++i) {
          EXPECT_EQUAL(gotExclusive[i], sum);
          sum += values[i];
          EXPECT_EQUAL(gotInclusive[i], sum);
        }
        EXPECT_EQUAL(gotSums[first / width], sum);
      }
    }
  });
}

TEST("WarpReduce sums runs that begin at flagged lanes") {
  everywhere("cub_warp.fatbin", [](const Program& program, std::uint64_t seed) {
    RandomValues random(seed);
    const std::vector<int> values = random.integers(blocks * 64, -99, 99);
    std::vector<int> heads = random.integers(values.size(), 0, 1);
    for (std::size_t i = 0; i < heads.size(); i += 32) heads[i] = 1;
    std::vector<int> wanted(values.size(), 0);
    std::size_t head = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (heads[i]) head = i;
      wanted[head] += values[i];
    }
    const DeviceArray<int> input(values);
    const DeviceArray<int> flags(heads);
    const DeviceArray<int> sums(values.size());
    SUCCEED(run(program.function("warp_segmented"), {blocks, 64}, input.address(), flags.address(),
                sums.address()));
    EXPECT(sums.download() == wanted);
  });
}
