// Optimiser steps over lists of tensors: every value, gradient and moment is read and written once, and the
// bfloat16 copy is written while the new value is at hand. A block takes a chunk of one tensor. Bound by
// memory: AdamW moves 28 bytes an element, 30 with the copy.
//
// The global norm sums squares by chunk, then the chunks' sums in float64 in a fixed order.
#include "cuda/kernels/any_floats.cuh"
#include "cuda/kernels/optimizer_params.h"
#include "cuda/kernels/reduce.cuh"

namespace softmoe::cuda {

constexpr int kThreads = 256;

// Index of the tensor that owns this block's chunk: the last whose first chunk is at or before it.
template <class Tensor>
__device__ __forceinline__ int tensor_of_block(const Tensor* tensors, int count) {
  int low = 0, high = count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (tensors[middle].first_chunk <= static_cast<int>(blockIdx.x)) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// Calls body(i, n) for this thread's fours of the chunk.
template <class Tensor, class Body>
__device__ __forceinline__ void for_chunk(const Tensor& tensor, Body body) {
  const std::int64_t begin = (static_cast<std::int64_t>(blockIdx.x) - tensor.first_chunk) * kOptimizerChunk;
  const std::int64_t end = min(begin + kOptimizerChunk, tensor.count);
  for (std::int64_t i = begin + threadIdx.x * 4; i < end; i += kThreads * 4) {
    body(i, static_cast<int>(min(end - i, static_cast<std::int64_t>(4))));
  }
}

// By intrinsics, which the compiler does not take apart into single elements to join them with the other
// case.
__device__ __forceinline__ void store4_whole(float* y, float4 v) { __stwb(reinterpret_cast<float4*>(y), v); }
__device__ __forceinline__ void store4_whole(bfloat16* y, float4 v) {
  __stwb(reinterpret_cast<uint2*>(y), make_uint2(ptx::pack_bfloat16(v.x, v.y), ptx::pack_bfloat16(v.z, v.w)));
}
template <class T>
__device__ __forceinline__ void store_fours(T* y, float4 v, int n, bool aligned) {
  if (aligned && n == 4) {
    store4_whole(y, v);
  } else {
    store4_partial(y, v, n, false);
  }
}

__device__ __forceinline__ void store_value(const StepTensor& tensor, std::int64_t i, float4 value, int n) {
  store_fours(tensor.value + i, value, n, tensor.aligned);
  if (tensor.bfloat16_copy) {
    store_fours(static_cast<bfloat16*>(tensor.bfloat16_copy) + i, value, n, tensor.aligned);
  }
}

extern "C" __global__ void __launch_bounds__(kThreads) adamw(const __grid_constant__ AdamWParams p) {
  const StepTensor& tensor = p.list.tensors[tensor_of_block(p.list.tensors, p.list.count)];
  const float gradient_scale = p.list.gradient_scale ? *p.list.gradient_scale : 1.0f;
  for_chunk(tensor, [&](std::int64_t i, int n) {
    const auto scaled = [&](float g) { return g * gradient_scale; };
    const float4 g = map4(load4_partial(tensor.gradient + i, n, tensor.aligned), scaled);
    const float4 m = map4(load4_partial(tensor.first_moment + i, n, tensor.aligned), g,
                          [&](float old, float now) { return p.beta1 * old + p.rest1 * now; });
    const float4 v = map4(load4_partial(tensor.second_moment + i, n, tensor.aligned), g,
                          [&](float old, float now) { return p.beta2 * old + p.rest2 * (now * now); });
    const float4 value = load4_partial(tensor.value + i, n, tensor.aligned);
    const float4 direction =
        map4(m, v, [&](float a, float b) { return a * p.inverse1 / (sqrtf(b * p.inverse2) + p.eps); });
    store_fours(tensor.first_moment + i, m, n, tensor.aligned);
    store_fours(tensor.second_moment + i, v, n, tensor.aligned);
    store_value(tensor, i,
                map4(value, direction,
                     [&](float x, float step) {
                       return x - tensor.learning_rate * (step + tensor.weight_decay * x);
                     }),
                n);
  });
}

extern "C" __global__ void __launch_bounds__(kThreads) sgd(const __grid_constant__ SgdParams p) {
  const StepTensor& tensor = p.list.tensors[tensor_of_block(p.list.tensors, p.list.count)];
  const float gradient_scale = p.list.gradient_scale ? *p.list.gradient_scale : 1.0f;
  for_chunk(tensor, [&](std::int64_t i, int n) {
    const float4 value = load4_partial(tensor.value + i, n, tensor.aligned);
    const float4 g = map4(load4_partial(tensor.gradient + i, n, tensor.aligned), value,
                          [&](float d, float x) { return d * gradient_scale + tensor.weight_decay * x; });
    float4 m = g;
    if (tensor.first_moment) {  // absent without momentum
      m = map4(load4_partial(tensor.first_moment + i, n, tensor.aligned), g,
               [&](float old, float now) { return p.momentum * old + now; });
      store_fours(tensor.first_moment + i, m, n, tensor.aligned);
    }
    const float4 direction =
        p.nesterov ? map4(g, m, [&](float now, float moved) { return now + p.momentum * moved; }) : m;
    store_value(tensor, i,
                map4(value, direction, [&](float x, float step) { return x - tensor.learning_rate * step; }),
                n);
  });
}

extern "C" __global__ void __launch_bounds__(kThreads) sum_squares(const __grid_constant__ SquaresParams p) {
  __shared__ float shared[kThreads / kWarpSize];
  const SquaredTensor& tensor = p.tensors[tensor_of_block(p.tensors, p.count)];
  const AnyFloats x{const_cast<void*>(tensor.x), tensor.is_bfloat16, tensor.aligned};
  float sum = 0;
  for_chunk(tensor, [&](std::int64_t i, int n) {
    const float4 v = load4(x, i, n);
    sum += v.x * v.x + v.y * v.y + (v.z * v.z + v.w * v.w);
  });
  sum = block_sum<kThreads>(sum, shared);
  if (threadIdx.x == 0) p.squares[p.first_square + blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(kThreads)
    norm_of_squares(const __grid_constant__ NormOfSquares p) {
  __shared__ double sums[kThreads];
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < p.count; i += kThreads) sum += p.squares[i];
  sums[threadIdx.x] = sum;
  for (int step = kThreads / 2; step > 0; step /= 2) {
    __syncthreads();
    if (threadIdx.x < step) sums[threadIdx.x] += sums[threadIdx.x + step];
  }
  if (threadIdx.x != 0) return;
  const float norm = static_cast<float>(sqrt(sums[0]));
  if (p.norm) *p.norm = norm;
  if (!p.scale) return;
  float scale = 1;
  if (!isfinite(norm)) {
    scale = NAN;
  } else if (p.max_norm != 0 && norm > p.max_norm) {
    scale = static_cast<float>(p.max_norm / norm);
  }
  *p.scale = scale;
}

}  // namespace softmoe::cuda
