// Row products with b [depth, columns]: linear layers and experts forward, MatMul.
#include "cuda/kernels/row_product.cuh"

namespace softmoe::cuda {

SOFTMOE_ROW_PRODUCT(row_product_nn_bfloat16_16, bfloat16, 16, Layout::kDepthStrided)
SOFTMOE_ROW_PRODUCT(row_product_nn_bfloat16_32, bfloat16, 32, Layout::kDepthStrided)
SOFTMOE_ROW_PRODUCT(row_product_nn_bfloat16_64, bfloat16, 64, Layout::kDepthStrided)
SOFTMOE_ROW_PRODUCT(row_product_nn_bfloat16_128, bfloat16, 128, Layout::kDepthStrided)
SOFTMOE_ROW_PRODUCT(row_product_nn_float32_16, float, 16, Layout::kDepthStrided)
SOFTMOE_ROW_PRODUCT(row_product_nn_float32_64, float, 64, Layout::kDepthStrided)

}  // namespace softmoe::cuda
