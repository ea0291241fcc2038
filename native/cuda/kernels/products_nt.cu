// Row products with b [columns, depth]: gradients of linear layers and experts to their input, MatMul.
#include "cuda/kernels/row_product.cuh"

namespace softmoe::cuda {

SOFTMOE_ROW_PRODUCT(row_product_nt_bfloat16_16, bfloat16, 16, Layout::kDepthContiguous)
SOFTMOE_ROW_PRODUCT(row_product_nt_bfloat16_64, bfloat16, 64, Layout::kDepthContiguous)
SOFTMOE_ROW_PRODUCT(row_product_nt_bfloat16_128, bfloat16, 128, Layout::kDepthContiguous)
SOFTMOE_ROW_PRODUCT(row_product_nt_float32_64, float, 64, Layout::kDepthContiguous)

}  // namespace softmoe::cuda
