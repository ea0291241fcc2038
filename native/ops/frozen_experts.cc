#include "ops/frozen_experts.h"

#include <string>

#include "ops/expert_rows.h"

namespace softmoe::ops {

namespace {

Shape words(const FrozenLayout& layout) { return {layout.bytes / 4}; }

// Sums of 8-bit products of at most 255 * 127 fit 32 bits up to this depth.
constexpr std::int64_t kMostInt8Depth = 65536;

}  // namespace

Tensor freeze_experts(const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2,
                      WeightFormat format) {
  const Check check("freeze_experts");
  check.same_device({&w1, &b1, &w2, &b2});
  const Device& device = *w1.device();
  if (device.kind() != "cpu") {
    throw Error("ERR_DEVICE", "freeze_experts: the weights are on " + device.kind() + ":" +
                                  std::to_string(device.index()) +
                                  ", which serves no frozen weights; freeze a model on the device 'cpu'");
  }
  check.dtype("w1", w1, DType::kFloat32);
  check.dtype("b1", b1, DType::kFloat32);
  check.dtype("w2", w2, DType::kFloat32);
  check.dtype("b2", b2, DType::kFloat32);
  check.rank("w1", w1, 3, "[experts, dim, hidden]");
  check.rank("w2", w2, 3, "[experts, hidden, out]");
  FreezeExperts args;
  args.num_experts = w1.shape()[0], args.dim = w1.shape()[1], args.hidden = w1.shape()[2];
  args.out = w2.shape()[2];
  check.shape("w2", w2, {args.num_experts, args.hidden, args.out}, "[experts, hidden, out]");
  check.shape("b1", b1, {args.num_experts, args.hidden}, "[experts, hidden]");
  check.shape("b2", b2, {args.num_experts, args.out}, "[experts, out]");
  check.that(format != WeightFormat::kInt8 || (args.dim <= kMostInt8Depth && args.hidden <= kMostInt8Depth),
             "int8 weights of " + std::to_string(args.dim) + " x " + std::to_string(args.hidden) +
                 "; their sums fit up to an extent of " + std::to_string(kMostInt8Depth) + ": use bfloat16");
  const FrozenLayout layout(format, args.num_experts, args.dim, args.hidden, args.out);
  const Tensor frozen = Tensor::empty(w1.device(), words(layout), DType::kInt32);
  args.w1 = w1.buffer(), args.b1 = b1.buffer(), args.w2 = w2.buffer(), args.b2 = b2.buffer();
  args.frozen = frozen.buffer();
  args.format = format;
  w1.device()->launch(args);
  return frozen;
}

Tensor frozen_experts(const Tensor& x, const std::optional<Tensor>& offsets,
                      const std::optional<Tensor>& gather, const Tensor& frozen, WeightFormat format,
                      std::int64_t num_experts, std::int64_t dim, std::int64_t hidden, std::int64_t out,
                      Activation activation) {
  const Check check("frozen_experts");
  check.same_device({&x, pointer(offsets), pointer(gather), &frozen});
  check.floating("x", x);
  check.that(num_experts > 0 && dim >= 0 && hidden >= 0 && out >= 0, "an extent is below 0, or no experts");
  const ExpertShapes shapes = check_expert_rows(check, FrozenExpertsForward::kName, x, offsets, gather,
                                                {num_experts, dim, hidden, out});
  check.dtype("frozen", frozen, DType::kInt32);
  check.that(frozen.shape() == words(FrozenLayout(format, num_experts, dim, hidden, out)),
             "the frozen weights were made for other extents or another format");
  const Tensor y = Tensor::empty(x.device(), shapes.output_shape, x.dtype());
  FrozenExpertsForward args;
  args.rows = shapes.rows;
  args.x = x.buffer(), args.frozen = frozen.buffer(), args.y = y.buffer();
  args.dim = dim, args.hidden = hidden, args.out = out;
  args.activation = activation;
  args.format = format;
  launch_experts(*x.device(), args, shapes);
  return y;
}

}  // namespace softmoe::ops
