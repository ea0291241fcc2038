// Elementwise kernels, rows, losses, optimisers, attention and products.
#include <cstdlib>
#include <memory>

#include "cuda/cuda_device.h"
#include "cuda_memory_cases.h"

namespace softmoe::testing {

namespace {
constexpr DType kF32 = DType::kFloat32, kBF16 = DType::kBFloat16, kI32 = DType::kInt32;
}

namespace elementwise {

void run(DType dtype) {
  Kernels& kernels = cuda_kernels();
  Operands operands;
  const Buffer x = operands.random(dtype, kCount), dy = operands.random(dtype, kCount);
  const Buffer y = operands.result(dtype, kCount), integers = operands.result(kI32, kCount);
  const DType other = dtype == kF32 ? kBF16 : kF32;
  kernels.run(Fill{y, kCount, 1});
  kernels.run(Cast{x, operands.result(other, kCount), kCount});
  kernels.run(Cast{x, integers, kCount});
  kernels.run(Add{x, dy, y, kCount, kCount, 1});
  kernels.run(Multiply{x, dy, y, kCount});
  kernels.run(Scale{x, y, Buffer{}, kCount, 2});
  kernels.run(Activate{x, y, kCount});
  kernels.run(ActivateBackward{x, dy, y, kCount});
  kernels.run(Dropout{x, y, kCount, 0.1, {}});
  kernels.run(RandomFill{y, kCount, Distribution::kNormal, 0, 1, {}});
  kernels.run(CountNonFinite{x, integers, kCount});
}

void run_layouts(DType dtype) {
  Kernels& kernels = cuda_kernels();
  Operands operands;
  // Rows side by side; the word's size follows from the row's.
  const auto copy = [&](std::int64_t inner) {
    const std::int64_t outer = kCount / inner;
    const Buffer x = operands.random(dtype, outer * inner), y = operands.result(dtype, outer * inner);
    kernels.run(StridedCopy{x, y, outer, inner, inner, inner});
  };
  copy(256);
  copy(dtype == kF32 ? 255 : 254);
  if (dtype == kBF16) copy(255);
  const std::int64_t summed = kOuter * kMiddle * kInner;
  const Buffer x = operands.random(dtype, summed), y = operands.result(dtype, summed);
  kernels.run(SumMiddle{x, y, kOuter, kMiddle, kInner});
  kernels.run(BroadcastMiddle{x, y, kOuter, kMiddle, kInner});
  kernels.run(SumMiddle{x, y, kLines, kLineLength, 1});
  kernels.run(Transpose{x, y, 1, kRows, kColumns});
  kernels.run(Patchify{x, y, kBatch, kSide, kSide, kChannels, kPatch, false});
}

}  // namespace elementwise

namespace rows {

namespace {

void run_rows(DType dtype, std::int64_t rows, std::int64_t dim) {
  Kernels& kernels = cuda_kernels();
  Operands operands;
  const Buffer x = operands.random(dtype, rows * dim), dy = operands.random(dtype, rows * dim);
  const Buffer y = operands.result(dtype, rows * dim), dx = operands.result(dtype, rows * dim);
  const Buffer scale = operands.random(kF32, dim), bias = operands.random(kF32, dim);
  const Buffer mean = operands.floats(rows), rstd = operands.floats(rows);
  kernels.run(LayerNormForward{x, scale, bias, y, mean, rstd, rows, dim});
  kernels.run(
      LayerNormBackward{x, scale, mean, rstd, dy, dx, operands.floats(dim), operands.floats(dim), rows, dim});
  kernels.run(L2NormalizeForward{x, y, rstd, rows, dim});
  kernels.run(L2NormalizeBackward{x, rstd, dy, dx, rows, dim});
  kernels.run(SoftmaxForward{x, y, rstd, rows, dim});
  kernels.run(SoftmaxBackward{y, dy, dx, rows, dim});
  const Buffer labels = operands.integers(rows, dim), losses = operands.floats(rows);
  const Buffer dlosses = operands.random(kF32, rows);
  kernels.run(CrossEntropyForward{x, labels, losses, rows, dim, CrossEntropyKind::kSoftmax, 0.1});
  kernels.run(CrossEntropyBackward{x, labels, dlosses, dx, rows, dim, CrossEntropyKind::kSoftmax, 0.1});
  kernels.run(ArgMax{x, operands.result(kI32, rows), rows, dim});
}

}  // namespace

void run(DType dtype) { run_rows(dtype, kRows, kDim); }
void run_long(DType dtype) { run_rows(dtype, kLongRows, kLongDim); }

void run_narrow(DType dtype) {
  if (dtype == kF32) run_rows(dtype, kNarrowRows, kNarrowDim);
}

}  // namespace rows

namespace optimizer {

void run(DType dtype) {
  if (dtype != kF32) return;
  Kernels& kernels = cuda_kernels();
  Operands operands;
  AdamWStep adamw;
  SgdStep sgd;
  GlobalNorm norm;
  for (std::int64_t i = 0; i < kTensors; ++i) {
    OptimizedTensor tensor;
    const Buffer gradient = operands.random(kF32, kCount);
    tensor.value = operands.random(kF32, kCount).as<float>();
    tensor.gradient = gradient.as<float>();
    tensor.first_moment = operands.random(kF32, kCount).as<float>();
    tensor.second_moment = operands.all(kF32, kCount, 1).as<float>();
    tensor.bfloat16_copy = operands.result(kBF16, kCount).data;
    tensor.count = kCount;
    adamw.tensors.push_back(tensor);
    tensor.second_moment = nullptr;
    sgd.tensors.push_back(tensor);
    norm.tensors.push_back({gradient, kCount});
  }
  sgd.momentum = 0.9;
  norm.norm = operands.floats(1);
  norm.scale = operands.floats(1);
  norm.max_norm = 1;
  kernels.run(norm);
  adamw.gradient_scale = sgd.gradient_scale = norm.scale;
  kernels.run(adamw);
  kernels.run(sgd);
}

}  // namespace optimizer

namespace attention {

namespace {

void run_heads(DType dtype, std::int64_t dim) {
  Kernels& kernels = cuda_kernels();
  Operands operands;
  const std::int64_t q_count = kHeadCount * kQueries * dim, k_count = kHeadCount * kKeys * dim;
  const Buffer q = operands.random(dtype, q_count), k = operands.random(dtype, k_count);
  const Buffer v = operands.random(dtype, k_count), o = operands.result(dtype, q_count);
  const Buffer statistics = operands.floats(kHeadCount * kQueries);
  kernels.run(AttentionForward{q, k, v, o, statistics, kBatch, kHeads, kQueries, kKeys, dim, 0.1, 0, {}});
  kernels.run(AttentionBackward{q,
                                k,
                                v,
                                o,
                                statistics,
                                operands.random(dtype, q_count),
                                operands.result(dtype, q_count),
                                operands.result(dtype, k_count),
                                operands.result(dtype, k_count),
                                kBatch,
                                kHeads,
                                kQueries,
                                kKeys,
                                dim,
                                0.1,
                                0,
                                {}});
}

}  // namespace

void run_64(DType dtype) { run_heads(dtype, 64); }
void run_128(DType dtype) { run_heads(dtype, 128); }
void run_256(DType dtype) { run_heads(dtype, 256); }
void run_narrow(DType dtype) {
  if (dtype == kF32) run_heads(dtype, kNarrowDim);
}

}  // namespace attention

namespace products {

namespace {

void run_rows(DType dtype, std::int64_t rows) {
  Kernels& kernels = cuda_kernels();
  Operands operands;
  const Buffer x = operands.random(dtype, rows * kIn), w = operands.random(dtype, kIn * kOut);
  const Buffer y = operands.result(dtype, rows * kOut);
  kernels.run(LinearForward{x, w, operands.random(kF32, kOut), Buffer{}, y, rows, kIn, kOut});
  kernels.run(LinearBackwardInput{y, w, operands.result(dtype, rows * kIn), rows, kIn, kOut});
}

}  // namespace

void run_16(DType dtype) { run_rows(dtype, 16); }
void run_32(DType dtype) { run_rows(dtype, 32); }
void run_64(DType dtype) { run_rows(dtype, 64); }
void run_384(DType dtype) { run_rows(dtype, 384); }

void run_columns(DType dtype) {
  Kernels& kernels = cuda_kernels();
  Operands operands;
  const std::int64_t rows = 256;
  const Buffer x = operands.random(dtype, rows * kIn), dy = operands.random(dtype, rows * kOut);
  const Buffer dw = operands.floats(kIn * kOut);
  kernels.run(LinearBackwardWeight{x, dy, dw, operands.floats(kOut), rows, kIn, kOut});
  MatMul product;
  product.a = x, product.b = dy, product.y = dw;
  product.batch = 1, product.m = kIn, product.n = kOut, product.k = rows;
  product.transpose_a = product.transpose_b = true;
  kernels.run(product);
}

void run_splits(DType dtype) {
  Operands operands;
  const Buffer x = operands.random(dtype, kSplitRows * 64), dy = operands.random(dtype, kSplitRows * 128);
  cuda_kernels().run(
      LinearBackwardWeight{x, dy, operands.floats(64 * 128), operands.floats(128), kSplitRows, 64, 128});
}

namespace {

// Experts that take their rows from tokens.
ExpertRows ragged_rows(Operands& operands, std::int64_t of_expert) {
  std::vector<double> offsets;
  for (std::int64_t e = 0; e <= kExperts; ++e) offsets.push_back(static_cast<double>(e * of_expert));
  ExpertRows rows;
  rows.num_experts = kExperts;
  rows.offsets = operands.list(kI32, offsets).as<std::int32_t>();
  rows.max_rows = kExperts * of_expert;
  rows.gather = operands.integers(rows.max_rows, rows.max_rows).as<std::int32_t>();
  return rows;
}

// The expert MLP, forward and backward.
void run_mlp(Kernels& kernels, DType dtype, Operands& operands, const ExpertRows& rows, double dropout) {
  const std::int64_t max_rows = rows.offsets ? rows.max_rows : kExperts * rows.rows_per_expert;
  const std::int64_t weights = kExperts * kDim * kHidden;
  const Buffer x = operands.random(dtype, max_rows * kDim), pre = operands.result(dtype, max_rows * kHidden);
  const Buffer w1 = operands.random(dtype, weights, 0.1), w2 = operands.random(dtype, weights, 0.1);
  const Buffer b1 = operands.random(kF32, kExperts * kHidden), b2 = operands.random(kF32, kExperts * kDim);
  ExpertsForward forward;
  forward.rows = rows, forward.x = x, forward.w1 = w1, forward.b1 = b1, forward.w2 = w2, forward.b2 = b2;
  forward.pre = pre, forward.y = operands.result(dtype, max_rows * kDim);
  forward.dim = forward.out = kDim, forward.hidden = kHidden, forward.dropout_rate = dropout;
  kernels.run(forward);
  ExpertsBackward backward;
  backward.rows = rows, backward.x = x, backward.w1 = w1, backward.w2 = w2, backward.pre = pre;
  backward.dy = operands.random(dtype, max_rows * kDim), backward.dx = forward.y;
  backward.dw1 = operands.floats(weights), backward.db1 = operands.floats(kExperts * kHidden);
  backward.dw2 = operands.floats(weights), backward.db2 = operands.floats(kExperts * kDim);
  backward.dim = backward.out = kDim, backward.hidden = kHidden, backward.dropout_rate = dropout;
  kernels.run(backward);
}

}  // namespace

void run_experts(DType dtype) {
  Operands operands;
  ExpertRows rows;
  rows.num_experts = kExperts, rows.rows_per_expert = kCapacity, rows.max_rows = kExperts * kCapacity;
  run_mlp(cuda_kernels(), dtype, operands, rows, 0);
}

void run_ragged_experts(DType dtype) {
  Operands operands;
  run_mlp(cuda_kernels(), dtype, operands, ragged_rows(operands, kLargeCapacity), 0.1);
}

// The products of compute capability 9.0, on a device of their own.
void run_wide(DType dtype) {
  if (dtype != kBF16) return;
  ::setenv("SOFTMOE_CUDA_WGMMA", "1", 1);
  const std::shared_ptr<cuda::CudaDevice> device = cuda::CudaDevice::open(0);
  ::unsetenv("SOFTMOE_CUDA_WGMMA");
  Operands operands;
  const std::int64_t rows = kWideRows;
  const Buffer x = operands.random(dtype, rows * kIn), w = operands.random(dtype, kIn * kOut);
  const Buffer y = operands.result(dtype, rows * kOut);
  device->launch(LinearForward{x, w, operands.random(kF32, kOut), Buffer{}, y, rows, kIn, kOut});
  device->launch(LinearBackwardInput{y, w, operands.result(dtype, rows * kIn), rows, kIn, kOut});
  device->launch(
      LinearBackwardWeight{x, y, operands.floats(kIn * kOut), operands.floats(kOut), rows, kIn, kOut});
  device->submit("experts", [&](Kernels& kernels) {
    run_mlp(kernels, dtype, operands, ragged_rows(operands, kWideRows), 0);
  });
  device->synchronize();
  device->close();
}

void run_narrow(DType dtype) {
  if (dtype != kF32) return;
  Kernels& kernels = cuda_kernels();
  Operands operands;
  const std::int64_t rows = kNarrowRows, in = kNarrowIn, out = kNarrowOut;
  const Buffer x = operands.random(kF32, rows * in), w = operands.random(kF32, in * out);
  const Buffer y = operands.floats(rows * out), dw = operands.floats(in * out);
  kernels.run(LinearForward{x, w, operands.random(kF32, out), Buffer{}, y, rows, in, out});
  kernels.run(LinearBackwardInput{y, w, operands.floats(rows * in), rows, in, out});
  kernels.run(LinearBackwardWeight{x, y, dw, operands.floats(out), rows, in, out});
  MatMul product;
  product.a = x, product.b = y, product.y = dw;
  product.batch = 1, product.m = in, product.n = out, product.k = rows;
  product.transpose_a = product.transpose_b = true;
  kernels.run(product);
}

}  // namespace products

}  // namespace softmoe::testing
