// Launches of the row products of compute capability 9.0 (kernels/wide_products.sm90a.cu).
#pragma once

#include "cuda/products.h"

namespace softmoe::cuda {

// Whether these kernels take the product, whose alignments are set: they are switched on
// (SOFTMOE_CUDA_WGMMA=1), the device is of compute capability 9.0, the data bfloat16 in groups of equal size,
// of at least 128 rows.
bool wide_row_product_serves(const Launcher& launcher, DType dtype, const RowProduct& product, bool ragged);

void wide_row_product(Launcher& launcher, bool b_transposed, const RowProduct& product);

}  // namespace softmoe::cuda
