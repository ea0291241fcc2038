#include "ops/optimizer.h"

#include <cmath>

#include "ops/check.h"

namespace softmoe::ops {

namespace {

std::vector<OptimizedTensor> optimized_tensors(const Check& check, const std::vector<Tensor>& values,
                                               const std::vector<Tensor>& gradients,
                                               const std::vector<Tensor>& first_moments,
                                               const std::vector<Tensor>* second_moments,
                                               const std::vector<std::optional<Tensor>>& copies,
                                               const std::vector<double>& learning_rates,
                                               const std::vector<double>& weight_decays) {
  const std::size_t count = values.size();
  check.that(count > 0, "no parameters were given");
  check.that(gradients.size() == count && first_moments.size() == count && copies.size() == count &&
                 learning_rates.size() == count && weight_decays.size() == count &&
                 (second_moments == nullptr || second_moments->size() == count),
             "the lists have different lengths; wanted one entry a parameter in each");
  std::vector<OptimizedTensor> tensors(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto matching = [&](const char* name, const Tensor& tensor, DType dtype) {
      check.same_device({&values.front(), &tensor});
      check.same_shape(name, tensor, "the parameter", values[i]);
      check.dtype(name, tensor, dtype);
    };
    matching("the parameter", values[i], DType::kFloat32);
    matching("the gradient", gradients[i], DType::kFloat32);
    matching("the first moment", first_moments[i], DType::kFloat32);
    if (second_moments != nullptr) matching("the second moment", (*second_moments)[i], DType::kFloat32);
    if (copies[i]) matching("the copy", *copies[i], DType::kBFloat16);
    check.finite("learningRate", learning_rates[i]);
    check.finite("weightDecay", weight_decays[i]);
    OptimizedTensor& tensor = tensors[i];
    tensor.value = values[i].buffer().as<float>();
    tensor.gradient = gradients[i].buffer().as<float>();
    tensor.first_moment = first_moments[i].buffer().as<float>();
    if (second_moments != nullptr) tensor.second_moment = (*second_moments)[i].buffer().as<float>();
    tensor.bfloat16_copy = buffer(copies[i]).data;
    tensor.count = values[i].count();
    tensor.learning_rate = learning_rates[i];
    tensor.weight_decay = weight_decays[i];
  }
  return tensors;
}

void check_gradient_scale(const Check& check, const std::optional<Tensor>& gradient_scale,
                          const Tensor& value) {
  if (!gradient_scale) return;
  check.same_device({&*gradient_scale, &value});
  check.dtype("gradientScale", *gradient_scale, DType::kFloat32);
  check.that(gradient_scale->count() == 1, "gradientScale must be a scalar");
}

}  // namespace

void adamw_step(const std::vector<Tensor>& values, const std::vector<Tensor>& gradients,
                const std::vector<Tensor>& first_moments, const std::vector<Tensor>& second_moments,
                const std::vector<std::optional<Tensor>>& copies, const std::vector<double>& learning_rates,
                const std::vector<double>& weight_decays, double beta1, double beta2, double eps,
                std::int64_t step, const std::optional<Tensor>& gradient_scale) {
  const Check check("adamw");
  check.probability("beta1", beta1);
  check.probability("beta2", beta2);
  check.that(eps > 0, "eps is " + std::to_string(eps) + "; wanted more than 0");
  check.finite("eps", eps);
  check.that(step > 0, "step is " + std::to_string(step) + "; wanted 1 or more");
  AdamWStep args;
  args.tensors = optimized_tensors(check, values, gradients, first_moments, &second_moments, copies,
                                   learning_rates, weight_decays);
  check_gradient_scale(check, gradient_scale, values.front());
  args.beta1 = beta1;
  args.beta2 = beta2;
  args.eps = eps;
  args.correction1 = 1 - std::pow(beta1, static_cast<double>(step));
  args.correction2 = 1 - std::pow(beta2, static_cast<double>(step));
  args.gradient_scale = buffer(gradient_scale);
  values.front().device()->launch(args);
}

void sgd_step(const std::vector<Tensor>& values, const std::vector<Tensor>& gradients,
              const std::vector<Tensor>& momenta, const std::vector<std::optional<Tensor>>& copies,
              const std::vector<double>& learning_rates, const std::vector<double>& weight_decays,
              double momentum, bool nesterov, const std::optional<Tensor>& gradient_scale) {
  const Check check("sgd");
  check.probability("momentum", momentum);
  SgdStep args;
  args.tensors =
      optimized_tensors(check, values, gradients, momenta, nullptr, copies, learning_rates, weight_decays);
  check_gradient_scale(check, gradient_scale, values.front());
  args.momentum = momentum;
  args.nesterov = nesterov;
  args.gradient_scale = buffer(gradient_scale);
  values.front().device()->launch(args);
}

std::tuple<Tensor, Tensor> global_norm(const std::vector<Tensor>& tensors, double max_norm) {
  const Check check("global_norm");
  check.that(!tensors.empty(), "no tensors were given; wanted at least one");
  check.that(max_norm >= 0 && std::isfinite(max_norm),
             "maxNorm is " + std::to_string(max_norm) + "; wanted a finite number, 0 or more");
  GlobalNorm args;
  for (const Tensor& tensor : tensors) {
    check.same_device({&tensors.front(), &tensor});
    check.floating("a tensor", tensor);
    args.tensors.push_back({tensor.buffer(), tensor.count()});
  }
  const auto& device = tensors.front().device();
  const Tensor norm = Tensor::empty(device, Shape(), DType::kFloat32);
  const Tensor scale = Tensor::empty(device, Shape(), DType::kFloat32);
  args.norm = norm.buffer();
  args.scale = scale.buffer();
  args.max_norm = max_norm;
  device->launch(args);
  return {norm, scale};
}

}  // namespace softmoe::ops
