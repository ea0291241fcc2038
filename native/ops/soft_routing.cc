#include "ops/soft_routing.h"

#include <utility>

#include "ops/check.h"

namespace softmoe::ops {

namespace {

SoftRouting checked_routing(const Check& check, const SoftRoutingOperands& operands, std::int64_t dim,
                            const Tensor* other) {
  const std::int64_t slots = operands.experts * operands.slots_per_expert;
  check.that(
      operands.experts > 0 && operands.slots_per_expert > 0 && operands.batch >= 0 && operands.tokens >= 0,
      "experts and slotsPerExpert must be 1 or more");
  SoftRouting routing;
  routing.shape = {operands.batch, operands.tokens, dim, operands.experts, operands.slots_per_expert};
  routing.dispatch = operands.dispatch;
  routing.combine = operands.combine;
  const bool soft = operands.dispatch == RoutingWeights::kSoft || operands.combine == RoutingWeights::kSoft;
  check.that(!soft || (operands.logits && operands.dispatch_lse && operands.combine_lse),
             "soft weights need the logits and their log-sum-exps");
  check.same_device({pointer(operands.logits), pointer(operands.dispatch_lse), pointer(operands.combine_lse),
                     pointer(operands.mask), other});
  const auto check_float32 = [&](const char* name, const std::optional<Tensor>& tensor,
                                 std::initializer_list<std::int64_t> wanted, const char* meaning) {
    if (!tensor) return;
    check.shape(name, *tensor, wanted, meaning);
    check.dtype(name, *tensor, DType::kFloat32);
  };
  check_float32("logits", operands.logits, {operands.batch, operands.tokens, slots},
                "[batch, tokens, slots]");
  check_float32("dispatchLse", operands.dispatch_lse, {operands.batch, slots}, "[batch, slots]");
  check_float32("combineLse", operands.combine_lse, {operands.batch, operands.tokens}, "[batch, tokens]");
  if (operands.mask) {
    check.shape("mask", *operands.mask, {operands.batch, operands.tokens}, "[batch, tokens]");
    check.dtype("mask", *operands.mask, DType::kInt32);
  }
  routing.logits = buffer(operands.logits);
  routing.dispatch_lse = buffer(operands.dispatch_lse);
  routing.combine_lse = buffer(operands.combine_lse);
  routing.mask = buffer(operands.mask);
  return routing;
}

void check_tokens(const Check& check, const char* name, const SoftRoutingOperands& routing, const Tensor& x) {
  check.floating(name, x);
  check.shape(name, x, {routing.batch, routing.tokens, Check::kAny}, "[batch, tokens, dim]");
}

void check_slots(const Check& check, const char* name, const SoftRoutingOperands& routing,
                 const Tensor& slots) {
  check.floating(name, slots);
  check.shape(name, slots, {routing.experts, routing.batch * routing.slots_per_expert, Check::kAny},
              "[experts, batch * slotsPerExpert, dim]");
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> soft_logits(
    const Tensor& x, const Tensor& phi, const Tensor& scale, const std::optional<Tensor>& mask,
    std::int64_t experts, double eps, bool eps_inside_root, double noise_std, const RandomKey& key) {
  const Check check("soft_logits");
  check.same_device({&x, &phi, &scale, pointer(mask)});
  check.floating("x", x);
  check.rank("x", x, 3, "[batch, tokens, dim]");
  const std::int64_t batch = x.shape()[0], tokens = x.shape()[1], dim = x.shape()[2];
  check.dtype("phi", phi, DType::kFloat32);
  check.shape("phi", phi, {dim, Check::kAny}, "[dim, slots]");
  check.dtype("scale", scale, DType::kFloat32);
  check.that(scale.count() == 1, "scale has shape " + scale.shape().text() + "; wanted a scalar");
  const std::int64_t slots = phi.shape()[1];
  check.that(experts > 0 && slots > 0 && slots % experts == 0,
             std::to_string(slots) + " slots cannot be shared by " + std::to_string(experts) +
                 " experts; wanted a multiple of the experts");
  check.that(eps > 0, "eps is " + std::to_string(eps) + "; wanted more than 0");
  check.finite("eps", eps);
  check.that(noise_std >= 0, "noiseStd is " + std::to_string(noise_std) + "; wanted 0 or more");
  check.finite("noiseStd", noise_std);
  if (mask) {
    check.shape("mask", *mask, {batch, tokens}, "[batch, tokens]");
    check.dtype("mask", *mask, DType::kInt32);
  }
  const auto make = [&](const Shape& shape) { return Tensor::empty(x.device(), shape, DType::kFloat32); };
  const Tensor logits = make({batch, tokens, slots}), dispatch_lse = make({batch, slots});
  const Tensor combine_lse = make({batch, tokens}), token_norm = make({batch, tokens}),
               slot_norm = make({slots});
  SoftLogitsForward args;
  args.routing.shape = {batch, tokens, dim, experts, slots / experts};
  args.routing.logits = logits.buffer();
  args.routing.dispatch_lse = dispatch_lse.buffer();
  args.routing.combine_lse = combine_lse.buffer();
  args.routing.mask = buffer(mask);
  args.x = x.buffer();
  args.phi = phi.buffer();
  args.scale = scale.buffer();
  args.token_norm = token_norm.buffer();
  args.slot_norm = slot_norm.buffer();
  args.eps = eps;
  args.eps_inside_root = eps_inside_root;
  args.noise_std = noise_std;
  args.key = key;
  x.device()->launch(args);
  return {logits, dispatch_lse, combine_lse, token_norm, slot_norm};
}

Tensor tokens_to_slots(const SoftRoutingOperands& operands, RoutingSide side, const Tensor& x) {
  const Check check("tokens_to_slots");
  check_tokens(check, "x", operands, x);
  TokensToSlots args;
  args.routing = checked_routing(check, operands, x.shape()[2], &x);
  args.side = side;
  args.x = x.buffer();
  const Tensor slots = Tensor::empty(
      x.device(), {operands.experts, operands.batch * operands.slots_per_expert, x.shape()[2]}, x.dtype());
  args.slots = slots.buffer();
  x.device()->launch(args);
  return slots;
}

Tensor slots_to_tokens(const SoftRoutingOperands& operands, RoutingSide side, const Tensor& slots) {
  const Check check("slots_to_tokens");
  check_slots(check, "slots", operands, slots);
  SlotsToTokens args;
  args.routing = checked_routing(check, operands, slots.shape()[2], &slots);
  args.side = side;
  args.slots = slots.buffer();
  const Tensor y =
      Tensor::empty(slots.device(), {operands.batch, operands.tokens, slots.shape()[2]}, slots.dtype());
  args.y = y.buffer();
  slots.device()->launch(args);
  return y;
}

Tensor soft_weights(const SoftRoutingOperands& operands, RoutingSide side,
                    const std::shared_ptr<Device>& device) {
  const Check check("soft_weights");
  SoftWeights args;
  args.routing = checked_routing(check, operands, 1, nullptr);
  args.side = side;
  const Tensor weights =
      Tensor::empty(device, {operands.batch, operands.tokens, operands.experts * operands.slots_per_expert},
                    DType::kFloat32);
  args.weights = weights.buffer();
  device->launch(args);
  return weights;
}

Tensor soft_logits_gradient(const SoftRoutingOperands& operands, const std::optional<Tensor>& x,
                            const std::optional<Tensor>& slots_in, const std::optional<Tensor>& dslots_in,
                            const std::optional<Tensor>& dy, const std::optional<Tensor>& y,
                            const std::optional<Tensor>& slots_out) {
  const Check check("soft_logits_gradient");
  const bool dispatch = dslots_in.has_value(), combine = dy.has_value();
  check.same_device({pointer(operands.logits), pointer(x), pointer(slots_in), pointer(dslots_in), pointer(dy),
                     pointer(y), pointer(slots_out)});
  check.that(operands.logits.has_value(), "the logits are missing");
  check.that(!dispatch || (x && slots_in), "the dispatch side needs x, slotsIn and dslotsIn");
  check.that(!combine || (y && slots_out), "the combine side needs dy, y and slotsOut");
  if (dispatch) {
    check_tokens(check, "x", operands, *x);
    check_slots(check, "slotsIn", operands, *slots_in);
    check.same_shape("dslotsIn", *dslots_in, "slotsIn", *slots_in);
    check.same_dtype("dslotsIn", *dslots_in, "x", *x);
    check.same_dtype("slotsIn", *slots_in, "x", *x);
  }
  if (combine) {
    check_tokens(check, "dy", operands, *dy);
    check_slots(check, "slotsOut", operands, *slots_out);
    check.same_shape("y", *y, "dy", *dy);
    check.same_dtype("y", *y, "dy", *dy);
    check.same_dtype("slotsOut", *slots_out, "dy", *dy);
    if (dispatch) check.same_dtype("dy", *dy, "x", *x);
  }
  SoftLogitsGradient args;
  const std::int64_t dim = dispatch ? x->shape()[2] : combine ? dy->shape()[2] : 1;
  args.routing = checked_routing(check, operands, dim, nullptr);
  args.x = buffer(x);
  args.slots_in = buffer(slots_in);
  args.dslots_in = buffer(dslots_in);
  args.dy = buffer(dy);
  args.y = buffer(y);
  args.slots_out = buffer(slots_out);
  const Tensor dlogits = Tensor::empty(operands.logits->device(), operands.logits->shape(), DType::kFloat32);
  args.dlogits = dlogits.buffer();
  dlogits.device()->launch(args);
  return dlogits;
}

std::tuple<Tensor, Tensor, Tensor> soft_logits_backward(const Tensor& x, const Tensor& phi,
                                                        const Tensor& scale, const Tensor& token_norm,
                                                        const Tensor& slot_norm, const Tensor& dlogits,
                                                        std::int64_t experts, double eps,
                                                        bool eps_inside_root,
                                                        const std::optional<Tensor>& dx_direct) {
  const Check check("soft_logits_backward");
  check.same_device({&x, &phi, &scale, &token_norm, &slot_norm, &dlogits, pointer(dx_direct)});
  check.rank("x", x, 3, "[batch, tokens, dim]");
  check.rank("phi", phi, 2, "[dim, slots]");
  const std::int64_t batch = x.shape()[0], tokens = x.shape()[1], dim = x.shape()[2], slots = phi.shape()[1];
  check.shape("dlogits", dlogits, {batch, tokens, slots}, "[batch, tokens, slots]");
  check.shape("phi", phi, {dim, slots}, "[dim, slots]");
  check.shape("tokenNorm", token_norm, {batch, tokens}, "[batch, tokens]");
  check.shape("slotNorm", slot_norm, {slots}, "[slots]");
  for (const auto& [name, tensor] : {std::pair<const char*, const Tensor*>{"dlogits", &dlogits},
                                     {"phi", &phi},
                                     {"scale", &scale},
                                     {"tokenNorm", &token_norm},
                                     {"slotNorm", &slot_norm}}) {
    check.dtype(name, *tensor, DType::kFloat32);
  }
  check.that(experts > 0 && slots % experts == 0,
             std::to_string(slots) + " slots cannot be shared by " + std::to_string(experts) + " experts");
  if (dx_direct) {
    check.same_shape("dxDirect", *dx_direct, "x", x);
    check.same_dtype("dxDirect", *dx_direct, "x", x);
  }
  const Tensor dx = dx_direct ? *dx_direct : Tensor::empty(x.device(), x.shape(), x.dtype());
  const Tensor dphi = Tensor::empty(x.device(), phi.shape(), DType::kFloat32);
  const Tensor dscale = Tensor::empty(x.device(), scale.shape(), DType::kFloat32);
  SoftLogitsBackward args;
  args.shape = {batch, tokens, dim, experts, slots / experts};
  args.x = x.buffer();
  args.phi = phi.buffer();
  args.scale = scale.buffer();
  args.token_norm = token_norm.buffer();
  args.slot_norm = slot_norm.buffer();
  args.dlogits = dlogits.buffer();
  args.dx = dx.buffer();
  args.dphi = dphi.buffer();
  args.dscale = dscale.buffer();
  args.eps = eps;
  args.eps_inside_root = eps_inside_root;
  args.accumulate_dx = dx_direct.has_value();
  x.device()->launch(args);
  return {dx, dphi, dscale};
}

}  // namespace softmoe::ops
