// Row normalisations and row softmax.
#include "cuda/cuda_kernels.h"
#include "cuda/kernels/normalization_params.h"
#include "cuda/row_team.h"

namespace softmoe::cuda {

namespace {

constexpr const char* kFile = "normalization";
constexpr const char* kNarrowFile = "narrow_layer_norm";
constexpr std::int64_t kNarrowRow = 48;  // float32 rows up to this length are normalised in float64
constexpr unsigned kNarrowThreads = 64;
constexpr std::int64_t kBlockRows = 64;  // as in both kernel files

bool is_narrow(const Buffer& x, const Buffer& y, std::int64_t dim) {
  return x.dtype == DType::kFloat32 && y.dtype == DType::kFloat32 && dim <= kNarrowRow;
}

}  // namespace

void CudaKernels::run(const LayerNormForward& args) {
  const LayerNormParams p{any_floats(args.x),
                          any_floats(args.y),
                          any_floats(args.scale),
                          any_floats(args.bias),
                          args.mean.as<float>(),
                          args.rstd.as<float>(),
                          args.rows,
                          args.dim,
                          args.eps};
  if (is_narrow(args.x, args.y, args.dim)) {
    launcher_.launch(kNarrowFile, "narrow_layer_norm", {divide_up(args.rows, kNarrowThreads)}, kNarrowThreads,
                     0, p);
  } else {
    launch_rows(launcher_, kFile, "layer_norm", args.rows, args.dim, p);
  }
}

void CudaKernels::run(const LayerNormBackward& args) {
  const bool narrow = is_narrow(args.x, args.dy, args.dim);
  if (args.dx) {
    const LayerNormBackwardParams p{
        any_floats(args.x),    any_floats(args.dy),   any_floats(args.dx), any_floats(args.scale),
        args.mean.as<float>(), args.rstd.as<float>(), args.rows,           args.dim};
    if (narrow) {
      launcher_.launch(kNarrowFile, "narrow_layer_norm_backward", {divide_up(args.rows, kNarrowThreads)},
                       kNarrowThreads, 0, p);
    } else {
      launch_rows(launcher_, kFile, "layer_norm_backward", args.rows, args.dim, p);
    }
  }
  if (!args.dscale && !args.dbias) return;
  const std::int64_t blocks = divide_up(args.rows, kBlockRows);
  const Workspace parts = launcher_.workspace(static_cast<std::size_t>(blocks * 2 * args.dim) *
                                              (narrow ? sizeof(double) : sizeof(float)));
  const LayerNormParameterParts p{any_floats(args.x),
                                  any_floats(args.dy),
                                  args.mean.as<float>(),
                                  args.rstd.as<float>(),
                                  parts.as<void>(),
                                  args.rows,
                                  args.dim,
                                  blocks};
  const LayerNormParameterSums sums{parts.as<void>(), args.dscale.as<float>(), args.dbias.as<float>(),
                                    args.dim, blocks};
  if (narrow) {
    launcher_.launch(kNarrowFile, "narrow_layer_norm_parameter_parts", {blocks}, kNarrowThreads, 0, p);
    launcher_.launch(kNarrowFile, "narrow_layer_norm_parameter_sums",
                     {divide_up(2 * args.dim, kNarrowThreads)}, kNarrowThreads, 0, sums);
  } else {
    launcher_.launch(kFile, "layer_norm_parameter_parts", {blocks, divide_up(args.dim, 256)}, 256, 0, p);
    launcher_.launch(kFile, "layer_norm_parameter_sums", {divide_up(2 * args.dim, 256)}, 256, 0, sums);
  }
}

void CudaKernels::run(const L2NormalizeForward& args) {
  launch_rows(launcher_, kFile, "l2_normalize", args.rows, args.dim,
              L2NormalizeParams{any_floats(args.x), any_floats(args.y), args.inverse_norm.as<float>(),
                                args.rows, args.dim, static_cast<float>(args.eps)});
}

void CudaKernels::run(const L2NormalizeBackward& args) {
  launch_rows(launcher_, kFile, "l2_normalize_backward", args.rows, args.dim,
              L2NormalizeBackwardParams{any_floats(args.x), any_floats(args.dy), any_floats(args.dx),
                                        args.inverse_norm.as<float>(), args.rows, args.dim});
}

void CudaKernels::run(const SoftmaxForward& args) {
  launch_rows(launcher_, kFile, "softmax", args.rows, args.columns,
              SoftmaxParams{any_floats(args.x), any_floats(args.y), args.log_sum_exp.as<float>(), args.rows,
                            args.columns});
}

void CudaKernels::run(const SoftmaxBackward& args) {
  launch_rows(launcher_, kFile, "softmax_backward", args.rows, args.columns,
              SoftmaxBackwardParams{any_floats(args.y), any_floats(args.dy), any_floats(args.dx), args.rows,
                                    args.columns});
}

}  // namespace softmoe::cuda
