#include "core/kernels/optimizer.h"

#include "cpu/thread_pool.h"
#include "testing.h"

namespace softmoe::testing {
namespace {

constexpr DType kF32 = DType::kFloat32, kBF16 = DType::kBFloat16;

// Tensors of unlike sizes, among them one of several chunks and an empty one.
const std::vector<std::int64_t> kCounts = {3, 40001, 0, 16384, 17};

struct Parameters {
  std::vector<Values> value, gradient, first, second, copy;
  std::vector<OptimizedTensor> tensors() const {
    std::vector<OptimizedTensor> list;
    for (std::size_t i = 0; i < value.size(); ++i) {
      list.push_back({value[i].buffer().as<float>(), gradient[i].buffer().as<float>(),
                      first[i].buffer().as<float>(), second[i].buffer().as<float>(),
                      i == 1 ? nullptr : copy[i].buffer().data, value[i].count(),
                      0.01 * static_cast<double>(i + 1), i % 2 ? 0.1 : 0.0});
    }
    return list;
  }
};

Parameters make_parameters() {
  Parameters parameters;
  std::uint32_t seed = 1;
  for (const std::int64_t count : kCounts) {
    parameters.value.emplace_back(kF32, normals(count, seed++));
    parameters.gradient.emplace_back(kF32, normals(count, seed++));
    parameters.first.emplace_back(kF32, normals(count, seed++));
    std::vector<double> squares = normals(count, seed++);
    for (double& square : squares) square *= square;
    parameters.second.emplace_back(kF32, squares);
    parameters.copy.emplace_back(kBF16, count);
  }
  return parameters;
}

TEST(adamw_agrees_with_double) {
  for_each_instruction_set([](Kernels& kernels) {
    const Parameters before = make_parameters(), after = make_parameters();
    const Values scale(kF32, std::vector<double>{0.5});
    AdamWStep step;
    step.tensors = after.tensors();
    step.eps = 1e-3;
    step.correction1 = 0.1;
    step.correction2 = 0.01;
    step.gradient_scale = scale.buffer();
    kernels.run(step);
    for (std::size_t i = 0; i < kCounts.size(); ++i) {
      std::vector<double> value, first, second;
      for (std::int64_t j = 0; j < kCounts[i]; ++j) {
        const double g = 0.5 * before.gradient[i][j];
        first.push_back(0.9 * before.first[i][j] + 0.1 * g);
        second.push_back(0.999 * before.second[i][j] + 0.001 * g * g);
        const double update = first.back() / 0.1 / (std::sqrt(second.back() / 0.01) + 1e-3) +
                              step.tensors[i].weight_decay * before.value[i][j];
        value.push_back(before.value[i][j] - step.tensors[i].learning_rate * update);
      }
      CHECK_CLOSE(after.value[i], value, 1e-6);
      CHECK_CLOSE(after.first[i], first, 1e-6);
      CHECK_CLOSE(after.second[i], second, 1e-6);
      if (i != 1) CHECK_CLOSE(after.copy[i], rounded(kBF16, after.value[i].doubles()), 0);
    }
  });
}

TEST(sgd_agrees_with_double) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const double momentum : {0.0, 0.9}) {
      for (const bool nesterov : {false, true}) {
        const Parameters before = make_parameters(), after = make_parameters();
        SgdStep step;
        step.tensors = after.tensors();
        step.momentum = momentum;
        step.nesterov = nesterov;
        if (momentum == 0) {
          for (OptimizedTensor& tensor : step.tensors) tensor.first_moment = nullptr;
        }
        kernels.run(step);
        for (std::size_t i = 0; i < kCounts.size(); ++i) {
          std::vector<double> value;
          for (std::int64_t j = 0; j < kCounts[i]; ++j) {
            const double g = before.gradient[i][j] + step.tensors[i].weight_decay * before.value[i][j];
            const double m = momentum == 0 ? g : momentum * before.first[i][j] + g;
            value.push_back(before.value[i][j] -
                            step.tensors[i].learning_rate * (nesterov ? g + momentum * m : m));
          }
          CHECK_CLOSE(after.value[i], value, 1e-6);
        }
      }
    }
  });
}

TEST(global_norm_sums_all_tensors_in_a_fixed_order) {
  cpu::ThreadPool& pool = cpu::ThreadPool::instance();
  const int threads_before = pool.threads();
  for_each_instruction_set([&](Kernels& kernels) {
    const Values a(kF32, normals(70001, 1)), b(kBF16, normals(333, 2)), c(kF32, 0);
    double squares = 0;
    for (const Values* values : {&a, &b}) {
      for (const double value : values->doubles()) squares += value * value;
    }
    GlobalNorm args;
    for (const Values* values : {&a, &b, &c}) args.tensors.push_back({values->buffer(), values->count()});
    const double norm_wanted = std::sqrt(squares);
    for (const double max_norm : {0.0, 1.0, 1e6}) {
      std::vector<Values> norms;
      for (const int threads : {1, 4}) {
        pool.set_threads(threads);
        Values norm(kF32, 1), scale(kF32, 1);
        args.norm = norm.buffer();
        args.scale = scale.buffer();
        args.max_norm = max_norm;
        kernels.run(args);
        CHECK_CLOSE(norm, std::vector<double>{norm_wanted}, 1e-6);
        CHECK_CLOSE(scale, std::vector<double>{max_norm == 1.0 ? 1 / norm_wanted : 1.0}, 1e-6);
        norms.push_back(norm);
      }
      CHECK(norms[0].same_bits(norms[1]));
    }
    pool.set_threads(threads_before);

    const Values bad(kF32, {1, INFINITY, 2}), zero(kF32, {0, 0, 0});
    Values norm(kF32, 1), scale(kF32, 1);
    args = GlobalNorm{{{bad.buffer(), 3}}, norm.buffer(), scale.buffer(), 1};
    kernels.run(args);
    CHECK(std::isnan(scale[0]));
    args.tensors = {{zero.buffer(), 3}};
    kernels.run(args);
    CHECK(norm[0] == 0 && scale[0] == 1);
  });
}

}  // namespace
}  // namespace softmoe::testing
