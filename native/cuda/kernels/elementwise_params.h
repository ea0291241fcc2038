// Arguments of the kernels in elementwise.cu and elementwise_layouts.cu.
#pragma once

#include <cstdint>

#include "core/kernels/elementwise.h"
#include "cuda/kernels/any_floats.h"

namespace softmoe::cuda {

// y = words of 2 or 4 bytes, each with the bits `value`.
struct FillBits {
  void* y;
  std::int64_t count;
  std::uint32_t value;
  bool is_16_bit, aligned;  // to four words
};

struct CastFloats {
  AnyFloats x, y;
  std::int64_t count;
};
struct CastIntegers {
  AnyFloats floats;
  std::int32_t* integers;
  std::int64_t count;
  bool to_integers, aligned;  // the integers, to four
};

struct AddParams {
  AnyFloats a, b, y;
  std::int64_t count, period;
  float alpha;
};

struct MultiplyParams {
  AnyFloats a, b, y;
  std::int64_t count;
};

struct ScaleParams {
  AnyFloats x, y;
  const float* device_factor;
  std::int64_t count;
  float factor;
};

struct ActivateParams {
  AnyFloats x, y;
  std::int64_t count;
  Activation activation;
};

struct ActivateBackwardParams {
  AnyFloats x, dy, dx;
  std::int64_t count;
  Activation activation;
};

struct DropoutParams {
  AnyFloats x, y;
  std::int64_t count;
  float rate;
  RandomKey key;
};

struct RandomFillParams {
  AnyFloats y;
  std::int64_t count;
  Distribution distribution;
  float mean, scale;
  RandomKey key;
};

struct CountNonFiniteParams {
  AnyFloats x;
  std::int32_t* y;  // 0 before
  std::int64_t count;
};

// Extents in words of 2, 4 or 16 bytes.
struct StridedCopyParams {
  const void* x;
  void* y;
  std::int64_t outer, inner, x_stride, y_stride;
};

struct BroadcastParams {
  AnyFloats x, y;
  std::int64_t outer, middle, inner;
  std::int64_t blocks;  // of the middle axis, where inner is a multiple of four; else 0
  float scale;
};

// Sums of blocks of the middle axis: y[o, i] when there is one block, else partial[block][o, i].
struct SumBlocks {
  AnyFloats x, y;
  float* partial;  // or null
  std::int64_t outer, middle, inner, blocks;
  float scale;
};
struct SumOfBlocks {
  const float* partial;
  AnyFloats y;
  std::int64_t count, blocks;
  float scale;
};

struct TransposeParams {
  const void* x;
  void* y;
  std::int64_t batch, rows, columns, row_tiles, column_tiles;
};

struct PatchifyParams {
  AnyFloats x, y;
  std::int64_t count;  // groups of `unit` elements
  std::int64_t height, width, channels, patch, down, across;
  std::int32_t unit;  // 4 or 1
  bool inverse;
};

}  // namespace softmoe::cuda
