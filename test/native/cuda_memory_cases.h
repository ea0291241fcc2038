// Workloads that together launch every CUDA kernel, and their shapes: what cuda_memory.test.cc counts.
#pragma once

#include <cstdint>
#include <deque>

#include "cases.h"

namespace softmoe::testing {

// Operands of a workload, alive as long as it is.
class Operands {
 public:
  Buffer random(DType dtype, std::int64_t count, double scale = 1) {
    return keep(random_.values(dtype, count, scale));
  }
  Buffer result(DType dtype, std::int64_t count) { return keep(Values(dtype, count)); }
  Buffer floats(std::int64_t count) { return result(DType::kFloat32, count); }
  // Of 0 … end - 1.
  Buffer integers(std::int64_t count, std::int64_t end) {
    Values values(DType::kInt32, count);
    for (std::int64_t i = 0; i < count; ++i) values.set(i, static_cast<double>(random_.integer(0, end - 1)));
    return keep(std::move(values));
  }
  Buffer all(DType dtype, std::int64_t count, double value) {
    return keep(Values(dtype, std::vector<double>(static_cast<std::size_t>(count), value)));
  }
  Buffer list(DType dtype, const std::vector<double>& values) { return keep(Values(dtype, values)); }

 private:
  Buffer keep(Values values) {
    kept_.push_back(std::move(values));
    return kept_.back().buffer();
  }
  Random random_{1};
  std::deque<Values> kept_;
};

namespace elementwise {
constexpr std::int64_t kCount = 65536;
constexpr std::int64_t kOuter = 4, kMiddle = 300, kInner = 320;  // of sums and broadcasts
constexpr std::int64_t kLines = 6, kLineLength = 10000;          // sums of contiguous elements
constexpr std::int64_t kRows = 192, kColumns = 320;              // of a transposition
constexpr std::int64_t kBatch = 2, kSide = 64, kPatch = 16, kChannels = 3;
constexpr std::int64_t kPixels = kBatch * kSide * kSide * kChannels;
void run(DType dtype);
void run_layouts(DType dtype);
}  // namespace elementwise

namespace rows {
constexpr std::int64_t kRows = 100, kDim = 768;          // a warp a row
constexpr std::int64_t kLongRows = 12, kLongDim = 8000;  // a block a row
constexpr std::int64_t kNarrowRows = 300, kNarrowDim = 48;
void run(DType dtype);
void run_long(DType dtype);
void run_narrow(DType dtype);
}  // namespace rows

namespace optimizer {
constexpr std::int64_t kTensors = 5, kCount = 20000;
void run(DType dtype);
}  // namespace optimizer

namespace attention {
constexpr std::int64_t kBatch = 2, kHeads = 3, kQueries = 196, kKeys = 150;
constexpr std::int64_t kHeadCount = kBatch * kHeads;
constexpr std::int64_t kNarrowDim = 8;
void run_64(DType dtype);
void run_128(DType dtype);
void run_256(DType dtype);
void run_narrow(DType dtype);
}  // namespace attention

namespace products {
constexpr std::int64_t kIn = 384, kOut = 512;
constexpr std::int64_t kSplitRows = 4096;
constexpr std::int64_t kExperts = 8, kDim = 128, kHidden = 512, kCapacity = 16, kLargeCapacity = 100,
                       kWideRows = 128;
constexpr std::int64_t kNarrowRows = 500, kNarrowIn = 48, kNarrowOut = 40;
void run_16(DType dtype);
void run_32(DType dtype);
void run_64(DType dtype);
void run_384(DType dtype);
void run_wide(DType dtype);
void run_columns(DType dtype);
void run_splits(DType dtype);
void run_experts(DType dtype);
void run_ragged_experts(DType dtype);
void run_narrow(DType dtype);
}  // namespace products

namespace soft {
struct Shape {
  std::int64_t batch, tokens;
};
constexpr Shape kSmall{1, 64}, kLarge{4, 196};
constexpr std::int64_t kDim = 256, kExperts = 16, kSlotsPerExpert = 4, kSlots = kExperts * kSlotsPerExpert;
void run_small(DType dtype);
void run_large(DType dtype);
void run_identity(DType dtype);
}  // namespace soft

namespace sparse {
constexpr std::int64_t kGroups = 2, kTokens = 512, kExperts = 64, kChoices = 2, kCapacity = 24;
constexpr std::int64_t kAll = kGroups * kTokens, kAssignments = kAll * kChoices;
constexpr std::int64_t kDim = 768, kLongDim = 4096;
constexpr std::int64_t kChosen = kGroups * kExperts * kCapacity;
void run_tokens_choice(DType dtype);
void run_experts_choice(DType dtype);
void run_combine(DType dtype);
void run_combine_long(DType dtype);
void run_checks(DType dtype);
void run_losses(DType dtype);
}  // namespace sparse

namespace plans {
constexpr std::int64_t kGroups = 2, kTokens = 256, kExperts = 32, kIterations = 5;
void run_sinkhorn(DType dtype);
void run_sparse(DType dtype);
}  // namespace plans

}  // namespace softmoe::testing
