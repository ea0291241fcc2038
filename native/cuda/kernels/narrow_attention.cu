// Attention with float32 heads of at most 8 elements, in float64 throughout: models with heads this narrow
// have scores far from 0, whose rounding to float32 the softmax amplifies, and are too small for float64 to
// cost anything that matters. One thread a query, or a key for dk and dv; the formulas of
// attention_gradients.cu, with the probabilities made anew instead of trusting a rounded log-sum-exp.
#include "cuda/kernels/attention_params.h"
#include "cuda/kernels/dropout.cuh"

namespace softmoe::cuda {

constexpr int kThreads = 128;
constexpr int kMostDim = 8;

struct NarrowHead {
  const AttentionParams& p;
  std::int64_t head;

  __device__ __forceinline__ std::int64_t at(std::int64_t row, std::int64_t rows) const {
    return ((head / p.heads * rows + row) * p.heads + head % p.heads) * p.dim;
  }
  __device__ __forceinline__ double dot(const void* a, std::int64_t a_at, const void* b,
                                        std::int64_t b_at) const {
    double sum = 0;
    for (int c = 0; c < p.dim; ++c) {
      sum += static_cast<double>(static_cast<const float*>(a)[a_at + c]) *
             static_cast<const float*>(b)[b_at + c];
    }
    return sum;
  }
  __device__ __forceinline__ double score(int query, int key) const {
    return p.scale * dot(p.q, at(query, p.queries), p.k, at(key, p.keys));
  }
  __device__ __forceinline__ double kept(int query, int key) const {
    if (p.dropout_rate == 0) return 1;
    const std::int64_t index = (head * p.queries + query) * p.keys + key;
    return dropout_factor(p.key, index, static_cast<float>(p.dropout_rate)) == 0 ? 0
                                                                                 : 1 / (1 - p.dropout_rate);
  }
  __device__ __forceinline__ double dprobability(int query, int key) const {
    return kept(query, key) * dot(p.d_o, at(query, p.queries), p.v, at(key, p.keys));
  }
};

struct NarrowSoftmax {
  double maximum, sum;
};
__device__ __forceinline__ NarrowSoftmax softmax_of(const NarrowHead& head, int query) {
  double maximum = -INFINITY, sum = 0;
  for (int key = 0; key < head.p.keys; ++key) maximum = fmax(maximum, head.score(query, key));
  for (int key = 0; key < head.p.keys; ++key) sum += exp(head.score(query, key) - maximum);
  return {maximum, sum};
}

__device__ __forceinline__ std::int64_t thread_index() {
  return static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

extern "C" __global__ void __launch_bounds__(kThreads)
    narrow_attention(const __grid_constant__ AttentionParams p) {
  const std::int64_t index = thread_index();
  if (index >= p.head_count * p.queries) return;
  const NarrowHead head{p, index / p.queries};
  const int query = static_cast<int>(index % p.queries);
  const NarrowSoftmax softmax = softmax_of(head, query);
  double sums[kMostDim] = {};
  for (int key = 0; key < p.keys; ++key) {
    const double weight = exp(head.score(query, key) - softmax.maximum) / softmax.sum * head.kept(query, key);
    const float* v = static_cast<const float*>(p.v) + head.at(key, p.keys);
#pragma unroll
    for (int c = 0; c < kMostDim; ++c) {
      if (c < p.dim) sums[c] += weight * v[c];
    }
  }
  float* o = static_cast<float*>(p.o) + head.at(query, p.queries);
#pragma unroll
  for (int c = 0; c < kMostDim; ++c) {
    if (c < p.dim) o[c] = static_cast<float>(sums[c]);
  }
  if (p.log_sum_exp) p.log_sum_exp[index] = static_cast<float>(softmax.maximum + log(softmax.sum));
}

extern "C" __global__ void __launch_bounds__(kThreads)
    narrow_attention_queries_gradient(const __grid_constant__ AttentionParams p) {
  const std::int64_t index = thread_index();
  if (index >= p.head_count * p.queries) return;
  const NarrowHead head{p, index / p.queries};
  const int query = static_cast<int>(index % p.queries);
  const NarrowSoftmax softmax = softmax_of(head, query);
  double inner = 0;
  for (int key = 0; key < p.keys; ++key) {
    inner += exp(head.score(query, key) - softmax.maximum) / softmax.sum * head.dprobability(query, key);
  }
  double* statistics = p.statistics + 3 * index;
  statistics[0] = softmax.maximum, statistics[1] = softmax.sum, statistics[2] = inner;
  double dq[kMostDim] = {};
  for (int key = 0; key < p.keys; ++key) {
    const double probability = exp(head.score(query, key) - softmax.maximum) / softmax.sum;
    const double dscore = p.scale * probability * (head.dprobability(query, key) - inner);
    const float* k = static_cast<const float*>(p.k) + head.at(key, p.keys);
#pragma unroll
    for (int c = 0; c < kMostDim; ++c) {
      if (c < p.dim) dq[c] += dscore * k[c];
    }
  }
  float* out = static_cast<float*>(p.dq) + head.at(query, p.queries);
#pragma unroll
  for (int c = 0; c < kMostDim; ++c) {
    if (c < p.dim) out[c] = static_cast<float>(dq[c]);
  }
}

extern "C" __global__ void __launch_bounds__(kThreads)
    narrow_attention_keys_gradient(const __grid_constant__ AttentionParams p) {
  const std::int64_t index = thread_index();
  if (index >= p.head_count * p.keys) return;
  const NarrowHead head{p, index / p.keys};
  const int key = static_cast<int>(index % p.keys);
  double dk[kMostDim] = {}, dv[kMostDim] = {};
  for (int query = 0; query < p.queries; ++query) {
    const double* statistics = p.statistics + 3 * (head.head * p.queries + query);
    const double probability = exp(head.score(query, key) - statistics[0]) / statistics[1];
    const double dscore = p.scale * probability * (head.dprobability(query, key) - statistics[2]);
    const double weight = probability * head.kept(query, key);
    const std::int64_t at = head.at(query, p.queries);
#pragma unroll
    for (int c = 0; c < kMostDim; ++c) {
      if (c >= p.dim) continue;
      dk[c] += dscore * static_cast<const float*>(p.q)[at + c];
      dv[c] += weight * static_cast<const float*>(p.d_o)[at + c];
    }
  }
  const std::int64_t at = head.at(key, p.keys);
#pragma unroll
  for (int c = 0; c < kMostDim; ++c) {
    if (c >= p.dim) continue;
    static_cast<float*>(p.dk)[at + c] = static_cast<float>(dk[c]);
    static_cast<float*>(p.dv)[at + c] = static_cast<float>(dv[c]);
  }
}

}  // namespace softmoe::cuda
