#include "core/kernels/loss.h"

#include "testing.h"

namespace softmoe::testing {
namespace {

constexpr DType kF32 = DType::kFloat32, kBF16 = DType::kBFloat16, kI32 = DType::kInt32;

// Loss of one row in double.
double loss_of(CrossEntropyKind kind, const std::vector<double>& x, std::int64_t label, double smoothing) {
  double top = -INFINITY, total = 0, loss = 0;
  for (const double v : x) top = std::max(top, v);
  for (const double v : x) total += std::exp(v - top);
  for (std::size_t c = 0; c < x.size(); ++c) {
    const double target = (static_cast<std::int64_t>(c) == label ? 1 - smoothing : 0) +
                          smoothing / static_cast<double>(x.size());
    if (kind == CrossEntropyKind::kSoftmax) {
      loss -= target * (x[c] - top - std::log(total));
    } else {
      loss += std::max(x[c], 0.0) - target * x[c] + std::log1p(std::exp(-std::fabs(x[c])));
    }
  }
  return loss;
}

TEST(cross_entropy_and_its_gradient_agree_with_double) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const CrossEntropyKind kind : {CrossEntropyKind::kSoftmax, CrossEntropyKind::kSigmoid}) {
      for (const std::int64_t classes : {2, 10, 133}) {
        for (const double smoothing : {0.0, 0.1}) {
          for (const DType dtype : {kF32, kBF16}) {
            const std::int64_t rows = 300;
            const Values x(dtype, normals(rows * classes, 1, 5)), dlosses(kF32, normals(rows, 2));
            Values labels(kI32, rows), losses(kF32, rows), dlogits(dtype, rows * classes);
            std::vector<double> want_losses, want_gradients;
            for (std::int64_t r = 0; r < rows; ++r) {
              labels.set(r, static_cast<double>(r * 7 % classes));
              std::vector<double> row;
              for (std::int64_t c = 0; c < classes; ++c) row.push_back(x[r * classes + c]);
              const std::int64_t label = r * 7 % classes;
              want_losses.push_back(loss_of(kind, row, label, smoothing));
              for (double& v : row) {
                const double kept = v, h = 1e-5;
                v = kept + h;
                const double up = loss_of(kind, row, label, smoothing);
                v = kept - h;
                want_gradients.push_back(dlosses[r] * (up - loss_of(kind, row, label, smoothing)) / (2 * h));
                v = kept;
              }
            }
            kernels.run(CrossEntropyForward{x.buffer(), labels.buffer(), losses.buffer(), rows, classes, kind,
                                            smoothing});
            CHECK_CLOSE(losses, want_losses, 1e-6);
            kernels.run(CrossEntropyBackward{x.buffer(), labels.buffer(), dlosses.buffer(), dlogits.buffer(),
                                             rows, classes, kind, smoothing});
            CHECK_CLOSE(dlogits, want_gradients, dtype == kBF16 ? 4e-3 : 1e-6);
          }
        }
      }
    }
  });
}

// Longer than what a warp or a block of a GPU keeps in registers.
TEST(cross_entropy_of_many_classes_agrees_with_double) {
  for_each_instruction_set([](Kernels& kernels) {
    const double smoothing = 0.1;
    for (const std::int64_t classes : {1111, 8403}) {
      const std::int64_t rows = 3;
      const Values x(kF32, normals(rows * classes, 6, 3)), dlosses(kF32, normals(rows, 7));
      Values labels(kI32, rows), losses(kF32, rows), dlogits(kF32, rows * classes);
      std::vector<double> want_losses, want_gradients;
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t label = (r + 1) * (classes - 1) / rows;
        labels.set(r, static_cast<double>(label));
        std::vector<double> row;
        double sum = 0;
        for (std::int64_t c = 0; c < classes; ++c) {
          row.push_back(x[r * classes + c]);
          sum += std::exp(row.back());
        }
        want_losses.push_back(loss_of(CrossEntropyKind::kSoftmax, row, label, smoothing));
        for (std::int64_t c = 0; c < classes; ++c) {
          const double target = smoothing / static_cast<double>(classes) + (c == label ? 1 - smoothing : 0);
          want_gradients.push_back(dlosses[r] * (std::exp(x[r * classes + c]) / sum - target));
        }
      }
      kernels.run(CrossEntropyForward{x.buffer(), labels.buffer(), losses.buffer(), rows, classes,
                                      CrossEntropyKind::kSoftmax, smoothing});
      kernels.run(CrossEntropyBackward{x.buffer(), labels.buffer(), dlosses.buffer(), dlogits.buffer(), rows,
                                       classes, CrossEntropyKind::kSoftmax, smoothing});
      CHECK_CLOSE(losses, want_losses, 1e-6);
      CHECK_CLOSE(dlogits, want_gradients, 1e-6);
      Values largest(kI32, rows);
      kernels.run(ArgMax{x.buffer(), largest.buffer(), rows, classes});
      for (std::int64_t r = 0; r < rows; ++r) {
        std::int64_t best = 0;
        for (std::int64_t c = 0; c < classes; ++c) {
          if (x[r * classes + c] > x[r * classes + best]) best = c;
        }
        CHECK_EQUAL(largest[r], static_cast<double>(best));
      }
    }
  });
}

TEST(cross_entropy_survives_extreme_logits) {
  for_each_instruction_set([](Kernels& kernels) {
    const Values x(kF32, {1000, -1000, 0, 88, 500, 500, -INFINITY, 0, 0}), labels(kI32, {1, 0, 1}),
        ones(kF32, {1, 1, 1});
    Values losses(kF32, 3), dlogits(kF32, 9);
    kernels.run(CrossEntropyForward{x.buffer(), labels.buffer(), losses.buffer(), 3, 3,
                                    CrossEntropyKind::kSoftmax, 0});
    CHECK_CLOSE(losses, (std::vector<double>{2000, 412 + std::log(2.0), std::log(2.0)}), 1e-6);
    kernels.run(CrossEntropyBackward{x.buffer(), labels.buffer(), ones.buffer(), dlogits.buffer(), 3, 3,
                                     CrossEntropyKind::kSoftmax, 0});
    CHECK_CLOSE(dlogits, (std::vector<double>{1, -1, 0, -1, 0.5, 0.5, 0, -0.5, 0.5}), 1e-6);
  });
}

// The bias of a sigmoid head over many classes starts at -ln(classes): each class adds little, all together
// much.
TEST(sigmoid_cross_entropy_keeps_small_terms) {
  for_each_instruction_set([](Kernels& kernels) {
    const std::int64_t classes = 29593;
    const double bias = static_cast<float>(-std::log(static_cast<double>(classes)));
    const Values x(kF32, std::vector<double>(static_cast<std::size_t>(classes), bias)),
        labels(kI32, std::vector<double>{5});
    Values losses(kF32, 1);
    kernels.run(CrossEntropyForward{x.buffer(), labels.buffer(), losses.buffer(), 1, classes,
                                    CrossEntropyKind::kSigmoid, 0});
    CHECK_CLOSE(losses,
                (std::vector<double>{static_cast<double>(classes) * std::log1p(std::exp(bias)) - bias}),
                3e-6);
  });
}

TEST(a_label_out_of_range_gives_nan_for_its_row_alone) {
  for_each_instruction_set([](Kernels& kernels) {
    for (const CrossEntropyKind kind : {CrossEntropyKind::kSoftmax, CrossEntropyKind::kSigmoid}) {
      const Values x(kF32, {0, 0, 0, 0, 0, 0}), labels(kI32, {0, 2, -1}), ones(kF32, {1, 1, 1});
      Values losses(kF32, 3), dlogits(kF32, 6);
      kernels.run(CrossEntropyForward{x.buffer(), labels.buffer(), losses.buffer(), 3, 2, kind, 0});
      kernels.run(
          CrossEntropyBackward{x.buffer(), labels.buffer(), ones.buffer(), dlogits.buffer(), 3, 2, kind, 0});
      CHECK(std::isfinite(losses[0]) && std::isnan(losses[1]) && std::isnan(losses[2]));
      for (int i = 0; i < 6; ++i) CHECK_EQUAL(std::isnan(dlogits[i]), i >= 2);
    }
  });
}

TEST(argmax_takes_the_lower_index_of_equals_and_passes_nan_over) {
  for_each_instruction_set([](Kernels& kernels) {
    const Values x(kF32,
                   {1, 3, 3, NAN, NAN, 2, 2, -1, NAN, NAN, NAN, NAN, -INFINITY, -INFINITY, NAN, -INFINITY});
    Values y(kI32, 4);
    kernels.run(ArgMax{x.buffer(), y.buffer(), 4, 4});
    CHECK_CLOSE(y, (std::vector<double>{1, 1, 0, 0}), 0);
    for (const DType dtype : {kF32, kBF16}) {
      const Values many(dtype, normals(500 * 77, 3));
      Values best(kI32, 500);
      kernels.run(ArgMax{many.buffer(), best.buffer(), 500, 77});
      for (std::int64_t r = 0; r < 500; ++r) {
        std::int64_t wanted = 0;
        for (std::int64_t c = 1; c < 77; ++c) {
          if (many[r * 77 + c] > many[r * 77 + wanted]) wanted = c;
        }
        CHECK_EQUAL(best[r], static_cast<double>(wanted));
      }
    }
  });
}

}  // namespace
}  // namespace softmoe::testing
