// Arguments of the kernels in narrow_products.cu.
#pragma once

#include "cuda/kernels/products_params.h"

namespace softmoe::cuda {

// The product without its tiles; ragged groups own the rows [offsets[g], offsets[g + 1]).
struct NarrowRowProduct {
  RowProduct product;
  const std::int32_t* offsets;  // or null
  std::int32_t rows;            // of all groups, at most
};

}  // namespace softmoe::cuda
