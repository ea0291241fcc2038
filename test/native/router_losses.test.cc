// Auxiliary losses against float64, gradients against central differences of the float64 loss.
#include <algorithm>
#include <array>

#include "core/kernels/sparse_routing.h"
#include "cpu/thread_pool.h"
#include "testing.h"

namespace softmoe::testing {
namespace {

constexpr DType kF32 = DType::kFloat32;

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

double squared_variation(const std::vector<double>& values) {
  double mean = 0, variance = 0;
  for (const double value : values) mean += value / static_cast<double>(values.size());
  for (const double value : values)
    variance += (value - mean) * (value - mean) / static_cast<double>(values.size());
  return variance / (mean * mean);
}

// Loss of one group. For the load loss b = a + noise.
double loss_of(RouterLoss loss, std::int64_t k, double sigma, std::int64_t experts,
               const std::vector<double>& a, const std::vector<double>& noise) {
  const std::int64_t tokens = static_cast<std::int64_t>(a.size()) / experts;
  std::vector<double> sums(at(experts)), first(at(experts));
  double z = 0;
  for (std::int64_t s = 0; s < tokens; ++s) {
    const auto* row = a.data() + s * experts;
    std::vector<double> noisy;
    double exponentials = 0;
    for (std::int64_t e = 0; e < experts; ++e) {
      noisy.push_back(row[e] + (loss == RouterLoss::kLoad ? noise[at(s * experts + e)] : 0));
      exponentials += std::exp(row[e]);
    }
    z += std::pow(std::log(exponentials), 2) / static_cast<double>(tokens);
    first[at(std::max_element(row, row + experts) - row)] += 1 / static_cast<double>(tokens);
    std::sort(noisy.rbegin(), noisy.rend());
    for (std::int64_t e = 0; e < experts; ++e) {
      const double value = loss == RouterLoss::kLoad
                               ? 0.5 * std::erfc((noisy[at(k - 1)] - row[e]) / sigma / std::sqrt(2.0))
                               : row[e];
      sums[at(e)] += value / static_cast<double>(tokens);
    }
  }
  if (loss == RouterLoss::kZ) return z;
  if (loss != RouterLoss::kGshard) return squared_variation(sums);
  double gshard = 0;
  for (std::int64_t e = 0; e < experts; ++e)
    gshard += static_cast<double>(experts) * first[at(e)] * sums[at(e)];
  return gshard;
}

TEST(router_losses_and_their_gradients_agree_with_double) {
  cpu::ThreadPool& pool = cpu::ThreadPool::instance();
  const int threads_before = pool.threads();
  for_each_instruction_set([&](Kernels& kernels) {
    for (const RouterLoss loss :
         {RouterLoss::kImportance, RouterLoss::kLoad, RouterLoss::kGshard, RouterLoss::kZ}) {
      for (const auto& [groups, tokens, experts, k] :
           {std::array<std::int64_t, 4>{1, 4, 2, 1}, {3, 70, 5, 2}, {2, 200, 33, 3}, {1, 5, 1100, 3}}) {
        const Context context("loss " + std::to_string(static_cast<int>(loss)) + " experts " +
                              std::to_string(experts));
        const double sigma = 0.7;
        const std::int64_t count = groups * tokens * experts, size = tokens * experts;
        std::vector<double> numbers = normals(count, 1);
        const bool of_gates = loss == RouterLoss::kImportance || loss == RouterLoss::kGshard;
        for (double& number : numbers) number = of_gates ? std::exp(number) / 10 : number;
        const Values a(kF32, numbers), noise(kF32, normals(count, 2, sigma)),
            dlosses(kF32, normals(groups, 3));
        std::vector<double> noisy(at(count)), want_losses, want_da;
        for (std::int64_t i = 0; i < count; ++i) noisy[at(i)] = a[i] + noise[i];
        const Values b(kF32, noisy);
        for (std::int64_t g = 0; g < groups; ++g) {
          std::vector<double> x, kept_noise;
          for (std::int64_t i = g * size; i < (g + 1) * size; ++i) {
            x.push_back(a[i]);
            kept_noise.push_back(b[i] - a[i]);
          }
          want_losses.push_back(loss_of(loss, k, sigma, experts, x, kept_noise));
          for (std::int64_t i = 0; i<size; i += experts> 30 ? 97 : 1) {  // some elements of the large case
            const double h = 1e-6, kept = x[at(i)];
            x[at(i)] = kept + h;
            const double up = loss_of(loss, k, sigma, experts, x, kept_noise);
            x[at(i)] = kept - h;
            want_da.push_back(dlosses[g] * (up - loss_of(loss, k, sigma, experts, x, kept_noise)) / (2 * h));
            x[at(i)] = kept;
          }
        }
        std::vector<Values> gradients;
        for (const int threads : {1, 4}) {
          pool.set_threads(threads);
          Values losses(kF32, groups), da(kF32, count);
          kernels.run(RouterLossForward{
              {groups, tokens, experts}, loss, k, sigma, a.buffer(), b.buffer(), losses.buffer()});
          CHECK_CLOSE(losses, want_losses, 2e-6);
          kernels.run(RouterLossBackward{{groups, tokens, experts},
                                         loss,
                                         k,
                                         sigma,
                                         a.buffer(),
                                         b.buffer(),
                                         dlosses.buffer(),
                                         da.buffer()});
          std::vector<double> some;
          for (std::int64_t g = 0; g < groups; ++g) {
            for (std::int64_t i = 0; i<size; i += experts> 30 ? 97 : 1) some.push_back(da[g * size + i]);
          }
          CHECK_CLOSE(some, want_da, 1e-5);
          gradients.push_back(da);
        }
        pool.set_threads(threads_before);
        CHECK(gradients[0].same_bits(gradients[1]));
      }
    }
  });
}

TEST(a_balanced_router_has_no_loss_and_no_gradient) {
  for_each_instruction_set([](Kernels& kernels) {
    const Values a(kF32, std::vector<double>(12, 0.25)), dlosses(kF32, std::vector<double>{1});
    Values losses(kF32, 1), da(kF32, 12);
    for (const RouterLoss loss : {RouterLoss::kImportance, RouterLoss::kLoad}) {
      kernels.run(RouterLossForward{{1, 3, 4}, loss, 2, 0.5, a.buffer(), a.buffer(), losses.buffer()});
      kernels.run(
          RouterLossBackward{{1, 3, 4}, loss, 2, 0.5, a.buffer(), a.buffer(), dlosses.buffer(), da.buffer()});
      CHECK_CLOSE(losses, std::vector<double>{0}, 0);
      CHECK_CLOSE(da, std::vector<double>(12, 0.0), 0);
    }
  });
}

}  // namespace
}  // namespace softmoe::testing
