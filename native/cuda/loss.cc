// Losses per row of logits.
#include "cuda/cuda_kernels.h"
#include "cuda/kernels/loss_params.h"
#include "cuda/row_team.h"

namespace softmoe::cuda {

void CudaKernels::run(const CrossEntropyForward& args) {
  launch_rows(
      launcher_, "loss", "cross_entropy", args.rows, args.classes,
      CrossEntropyParams{any_floats(args.logits), args.labels.as<std::int32_t>(), args.losses.as<float>(),
                         args.rows, args.classes, args.kind, static_cast<float>(args.smoothing)});
}

void CudaKernels::run(const CrossEntropyBackward& args) {
  launch_rows(launcher_, "loss", "cross_entropy_backward", args.rows, args.classes,
              CrossEntropyBackwardParams{any_floats(args.logits), any_floats(args.dlogits),
                                         args.labels.as<std::int32_t>(), args.dlosses.as<float>(), args.rows,
                                         args.classes, args.kind, static_cast<float>(args.smoothing)});
}

void CudaKernels::run(const ArgMax& args) {
  launch_rows(launcher_, "loss", "argmax", args.rows, args.columns,
              ArgMaxParams{any_floats(args.x), args.y.as<std::int32_t>(), args.rows, args.columns});
}

}  // namespace softmoe::cuda
