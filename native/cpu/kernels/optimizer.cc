// Optimiser steps over all parameters in one pass: every value, gradient and moment is read and written once,
// and the bfloat16 copy is written while the new value is at hand. Bound by memory: AdamW moves 28 bytes an
// element, 30 with the copy.
#include <cstdint>

#include "cpu/kernels/cpu_kernels.h"

#include "cpu/kernels/isa.h"

#include "cpu/kernels/loops.h"
#include "cpu/kernels/simd.h"

namespace softmoe::cpu::SOFTMOE_ISA {
namespace {

// Calls body(index of the tensor, begin, end, index of the chunk) for chunks of kElementGrain elements of all
// tensors. counts[i] elements in tensor i; `first_chunk` has room for one number more than there are tensors.
template <class Count, class Body>
std::int64_t for_chunks(ThreadPool& pool, std::int64_t tensors, std::int64_t* first_chunk,
                        const Count& count_of, const Body& body) {
  first_chunk[0] = 0;
  for (std::int64_t i = 0; i < tensors; ++i)
    first_chunk[i + 1] = first_chunk[i] + ceil_div(count_of(i), kElementGrain);
  const std::int64_t chunks = first_chunk[tensors];
  pool.parallel_for(chunks, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
      std::int64_t low = 0, high = tensors;  // the last tensor whose first chunk is at or before this one
      while (high - low > 1) {
        const std::int64_t middle = (low + high) / 2;
        (first_chunk[middle] <= chunk ? low : high) = middle;
      }
      const std::int64_t first = (chunk - first_chunk[low]) * kElementGrain;
      body(low, first, smaller(count_of(low), first + kElementGrain), chunk);
    }
  });
  return chunks;
}

inline void store_value(const OptimizedTensor& tensor, std::int64_t i, Vec value, std::int64_t n) {
  store_some(tensor.value + i, value, n);
  if (tensor.bfloat16_copy) store_some(static_cast<BFloat16*>(tensor.bfloat16_copy) + i, value, n);
}

}  // namespace

void CpuKernels::run(const AdamWStep& args) {
  const float gradient_scale = args.gradient_scale ? args.gradient_scale.as<float>()[0] : 1.0f;
  const float beta1 = static_cast<float>(args.beta1), rest1 = static_cast<float>(1 - args.beta1);
  const float beta2 = static_cast<float>(args.beta2), rest2 = static_cast<float>(1 - args.beta2);
  const float inverse1 = static_cast<float>(1 / args.correction1),
              inverse2 = static_cast<float>(1 / args.correction2);
  const float eps = static_cast<float>(args.eps);
  const auto tensors = static_cast<std::int64_t>(args.tensors.size());
  const OptimizedTensor* all = args.tensors.data();
  Arena::Frame frame(scratch.stream());
  std::int64_t* first_chunk = scratch.stream().take<std::int64_t>(tensors + 1);
  for_chunks(
      pool, tensors, first_chunk, [&](std::int64_t index) { return all[index].count; },
      [&](std::int64_t index, std::int64_t begin, std::int64_t end, std::int64_t) {
        const OptimizedTensor& tensor = all[index];
        const float learning_rate = static_cast<float>(tensor.learning_rate);
        const float decay = static_cast<float>(tensor.weight_decay);
        by_vectors(begin, end, [&](std::int64_t i, std::int64_t n) {
          const Vec g = load_some(tensor.gradient + i, n) * gradient_scale;
          const Vec m = beta1 * load_some(tensor.first_moment + i, n) + rest1 * g;
          const Vec v = beta2 * load_some(tensor.second_moment + i, n) + rest2 * (g * g);
          const Vec value = load_some(tensor.value + i, n);
          const Vec step = m * inverse1 / (sqrt(v * inverse2) + eps) + decay * value;
          store_some(tensor.first_moment + i, m, n);
          store_some(tensor.second_moment + i, v, n);
          store_value(tensor, i, value - learning_rate * step, n);
        });
      });
}

void CpuKernels::run(const SgdStep& args) {
  const float gradient_scale = args.gradient_scale ? args.gradient_scale.as<float>()[0] : 1.0f;
  const float momentum = static_cast<float>(args.momentum);
  const auto tensors = static_cast<std::int64_t>(args.tensors.size());
  const OptimizedTensor* all = args.tensors.data();
  Arena::Frame frame(scratch.stream());
  std::int64_t* first_chunk = scratch.stream().take<std::int64_t>(tensors + 1);
  for_chunks(
      pool, tensors, first_chunk, [&](std::int64_t index) { return all[index].count; },
      [&](std::int64_t index, std::int64_t begin, std::int64_t end, std::int64_t) {
        const OptimizedTensor& tensor = all[index];
        const float learning_rate = static_cast<float>(tensor.learning_rate);
        const float decay = static_cast<float>(tensor.weight_decay);
        by_vectors(begin, end, [&](std::int64_t i, std::int64_t n) {
          const Vec value = load_some(tensor.value + i, n);
          const Vec g = load_some(tensor.gradient + i, n) * gradient_scale + decay * value;
          Vec m = g;
          if (tensor.first_moment) {  // absent without momentum
            m = momentum * load_some(tensor.first_moment + i, n) + g;
            store_some(tensor.first_moment + i, m, n);
          }
          store_value(tensor, i, value - learning_rate * (args.nesterov ? g + momentum * m : m), n);
        });
      });
}

void CpuKernels::run(const GlobalNorm& args) {
  const auto tensors = static_cast<std::int64_t>(args.tensors.size());
  const CountedBuffer* all = args.tensors.data();
  Arena::Frame frame(scratch.stream());
  std::int64_t* first_chunk = scratch.stream().take<std::int64_t>(tensors + 1);
  std::int64_t chunks = 0;
  for (std::int64_t i = 0; i < tensors; ++i) chunks += ceil_div(all[i].count, kElementGrain);
  float* squares = scratch.stream().take<float>(chunks);
  for_chunks(
      pool, tensors, first_chunk, [&](std::int64_t index) { return all[index].count; },
      [&](std::int64_t index, std::int64_t begin, std::int64_t end, std::int64_t chunk) {
        with_float_type(all[index].x.dtype, [&](auto type) {
          const auto* x = all[index].x.template as<const decltype(type)>();
          Vec sum{};
          by_vectors(begin, end, [&](std::int64_t i, std::int64_t n) {
            const Vec v = load_some(x + i, n);
            sum += v * v;
          });
          squares[chunk] = sum_lanes(sum);
        });
      });
  double total = 0;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) total += static_cast<double>(squares[chunk]);
  const float norm = static_cast<float>(__builtin_sqrt(total));
  if (args.norm) args.norm.as<float>()[0] = norm;
  if (!args.scale) return;
  float scale = 1;
  if (!__builtin_isfinite(norm)) {
    scale = __builtin_nanf("");
  } else if (args.max_norm != 0 && static_cast<double>(norm) > args.max_norm) {
    scale = static_cast<float>(args.max_norm / static_cast<double>(norm));
  }
  args.scale.as<float>()[0] = scale;
}

}  // namespace softmoe::cpu::SOFTMOE_ISA

#include "cpu/kernels/isa_end.h"
