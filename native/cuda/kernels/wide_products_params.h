// Arguments of the kernels in wide_products.sm90a.cu.
#pragma once

#include "cuda/kernels/products_params.h"

namespace softmoe::cuda {

// What cuTensorMapEncodeTiled writes: 128 bytes that only the GPU reads.
struct alignas(64) TensorMap {
  unsigned char bytes[128];
};

// A tile of results, and the slice of the depth that a stage holds.
constexpr int kWideRows = 128, kWideColumns = 128, kWideDepth = 64;
// The innermost extent of every box: 128 bytes of bfloat16, the span of the swizzle.
constexpr int kWideSpan = 64;
constexpr int kWideStages = 4;
constexpr int kWidePanelBytes = kWideRows * kWideDepth * 2;
// Stages of both panels, and two barriers for each.
constexpr int kWideSharedBytes = kWideStages * 2 * kWidePanelBytes + kWideStages * 16;
// Two warpgroups that multiply and one that copies.
constexpr int kWideThreads = 3 * 128;

// A row product (products_params.h) of bfloat16. Maps of three dimensions, innermost first: a [depth, rows of
// a group, groups] in boxes of span x 128, for groups of equal size whose rows are not gathered; b [columns,
// depth, groups] in boxes of span x depth (nn) or [depth, columns, groups] in boxes of span x 128 (nt).
struct WideRowProduct {
  TensorMap a, b;
  RowProduct product;
};

// A column product of bfloat16. Maps, for groups of equal size whose rows are not gathered: a [m, rows of a
// group, groups] and b [n, rows of a group, groups], both in boxes of span x depth.
struct WideColumnProduct {
  TensorMap a, b;
  ColumnProduct product;
};

}  // namespace softmoe::cuda
