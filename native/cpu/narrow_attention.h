// Attention with heads of a few elements, in float64 throughout.
#pragma once

#include "core/kernels/attention.h"
#include "cpu/thread_pool.h"

namespace softmoe::cpu {

// Models with heads this narrow have scores far from 0, whose rounding to float32 the softmax amplifies; they
// are too small for float64 to cost anything that matters.
constexpr std::int64_t kNarrowHead = 8;

inline bool is_narrow(const Buffer& q, std::int64_t head_dim) {
  return q.dtype == DType::kFloat32 && head_dim <= kNarrowHead;
}

void narrow_attention(const AttentionForward& args, ThreadPool& pool);
void narrow_attention(const AttentionBackward& args, ThreadPool& pool);

}  // namespace softmoe::cpu
