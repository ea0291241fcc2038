#include "ops/router_losses.h"

#include "ops/check.h"

namespace softmoe::ops {

namespace {

GroupShape checked_groups(const Check& check, const char* name, const Tensor& x) {
  check.dtype(name, x, DType::kFloat32);
  check.rank(name, x, 3, "[groups, tokens, experts]");
  check.that(x.shape()[2] > 0, "there are no experts; wanted at least one");
  return {x.shape()[0], x.shape()[1], x.shape()[2]};
}

GroupShape check_loss(const Check& check, RouterLoss loss, const Tensor& a, const std::optional<Tensor>& b,
                      std::int64_t k, double sigma) {
  check.same_device({&a, pointer(b)});
  const GroupShape shape = checked_groups(check, "a", a);
  if (loss == RouterLoss::kLoad) {
    check.that(b.has_value(), "the load loss needs the noisy logits");
    check.same_shape("b", *b, "a", a);
    check.dtype("b", *b, DType::kFloat32);
    check.that(sigma > 0, "sigma is " + std::to_string(sigma) +
                              "; the load loss is defined for noisy routing only, with sigma over 0");
    check.finite("sigma", sigma);
    check.that(k >= 1 && k <= shape.experts,
               "k is " + std::to_string(k) + "; wanted 1 to the number of experts");
  }
  return shape;
}

Tensor like(const Tensor& x) { return Tensor::empty(x.device(), x.shape(), DType::kFloat32); }

}  // namespace

Tensor router_loss(RouterLoss loss, const Tensor& a, const std::optional<Tensor>& b, std::int64_t k,
                   double sigma) {
  const GroupShape shape = check_loss(Check("router_loss"), loss, a, b, k, sigma);
  const Tensor losses = Tensor::empty(a.device(), {shape.groups}, DType::kFloat32);
  a.device()->launch(RouterLossForward{shape, loss, k, sigma, a.buffer(), buffer(b), losses.buffer()});
  return losses;
}

Tensor router_loss_backward(RouterLoss loss, const Tensor& a, const std::optional<Tensor>& b, std::int64_t k,
                            double sigma, const Tensor& dlosses) {
  const Check check("router_loss_backward");
  const GroupShape shape = check_loss(check, loss, a, b, k, sigma);
  check.shape("dlosses", dlosses, {shape.groups}, "[groups]");
  check.dtype("dlosses", dlosses, DType::kFloat32);
  const Tensor da = like(a);
  a.device()->launch(
      RouterLossBackward{shape, loss, k, sigma, a.buffer(), buffer(b), dlosses.buffer(), da.buffer()});
  return da;
}

Tensor sinkhorn_plan(const Tensor& logits, std::int64_t iterations) {
  const Check check("sinkhorn");
  const GroupShape shape = checked_groups(check, "logits", logits);
  check.that(iterations >= 1, "iterations is " + std::to_string(iterations) + "; wanted 1 or more");
  const Tensor plan = like(logits);
  logits.device()->launch(SinkhornPlan{shape, iterations, logits.buffer(), plan.buffer()});
  return plan;
}

Tensor sinkhorn_plan_backward(const Tensor& plan, const Tensor& dplan) {
  const Check check("sinkhorn_backward");
  check.same_device({&plan, &dplan});
  const GroupShape shape = checked_groups(check, "plan", plan);
  check.same_shape("dplan", dplan, "plan", plan);
  check.dtype("dplan", dplan, DType::kFloat32);
  const Tensor dlogits = like(plan);
  plan.device()->launch(SinkhornPlanBackward{shape, plan.buffer(), dplan.buffer(), dlogits.buffer()});
  return dlogits;
}

Tensor sparse_plan(const Tensor& similarity, std::int64_t k, bool by_rows, std::int64_t iterations) {
  const Check check("sparse_plan");
  SparsePlan args;
  args.shape = checked_groups(check, "similarity", similarity);
  check.that(k >= 0, "k is " + std::to_string(k) + "; wanted 0 (no constraint) or more");
  check.that(iterations >= 1, "iterations is " + std::to_string(iterations) + "; wanted 1 or more");
  const Tensor plan = like(similarity);
  args.k = k;
  args.iterations = iterations;
  args.by_rows = by_rows;
  args.similarity = similarity.buffer();
  args.plan = plan.buffer();
  similarity.device()->launch(args);
  return plan;
}

}  // namespace softmoe::ops
