// Launches of the products of compute capability 9.0 (kernels/wide_*.sm90a.cu).
#pragma once

#include "cuda/products.h"

namespace softmoe::cuda {

// Whether these kernels take the product, whose alignments are set: they are switched on
// (SOFTMOE_CUDA_WGMMA=1), the device is of compute capability 9.0, the data bfloat16 in groups of at least
// 128 rows on the average. That average grows with the batch, so with these kernels a sample's last bits may
// depend on the batch around it.
bool wide_row_product_serves(const Launcher& launcher, DType dtype, const RowProduct& product,
                             std::int64_t average_rows);

// Groups as for row_product (products.h).
void wide_row_product(Launcher& launcher, bool b_transposed, const RowProduct& product,
                      const std::int32_t* offsets, std::int64_t max_rows);

// The same for column products. A split begins at a multiple of 64 rows of its group.
bool wide_column_product_serves(const Launcher& launcher, DType dtype, bool b_transposed,
                                const ColumnProduct& product, std::int64_t average_rows);

// `product` with everything set but the tiles of rows.
void wide_column_product(Launcher& launcher, const ColumnProduct& product);

}  // namespace softmoe::cuda
