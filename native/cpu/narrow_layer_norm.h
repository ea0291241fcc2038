// Layer normalisation of short rows, in float64 throughout.
#pragma once

#include "core/kernels/normalization.h"
#include "cpu/thread_pool.h"

namespace softmoe::cpu {

// Narrow models amplify the rounding of float32 statistics, and are too small for float64 to cost anything
// that matters.
constexpr std::int64_t kNarrowRow = 48;

inline bool is_narrow_row(const Buffer& x, const Buffer& y, std::int64_t dim) {
  return x.dtype == DType::kFloat32 && y.dtype == DType::kFloat32 && dim <= kNarrowRow;
}

void narrow_layer_norm(const LayerNormForward& args, ThreadPool& pool);
void narrow_layer_norm(const LayerNormBackward& args, ThreadPool& pool);

}  // namespace softmoe::cpu
