// The batched expert MLP and its gradients, one matrix product per expert and weight:
//   forward   pre = x w1 + b1, hidden = dropout(activation(pre)), y = dropout(hidden w2 + b2)
//   backward  dhidden = dy w2^T, dpre = dhidden * activation'(pre), dx = dpre w1^T,
//             dw2 = hidden^T dy, dw1 = x^T dpre, db2 and db1 the column sums of dy and dpre
// hidden is made again from pre in the backward. Tasks are (expert, block of columns, block of rows), so that
// all threads have work with one expert and with thousands.
#include <type_traits>

#include "core/philox.h"
#include "cpu/kernels/cpu_kernels.h"
#include "cpu/kernels/isa.h"
// The order matters: what follows is code for the instruction set.
#include "cpu/kernels/column_sums.h"
#include "cpu/kernels/dropout.h"
#include "cpu/kernels/expert_blocks.h"
#include "cpu/kernels/gemm_operands.h"
#include "cpu/kernels/vector_math.h"
#include "cpu/kernels/with_types.h"

namespace softmoe::cpu::SOFTMOE_ISA {
namespace {

template <class T>
void forward(const ExpertsForward& args, ThreadPool& pool, Scratch& scratch) {
  using Format = FormatOf<T>;
  const std::int64_t dim = args.dim, hidden = args.hidden, out = args.out;
  const Arena::Frame frame(scratch.stream());
  T* activated = scratch.stream().take<T>(first_row(args.rows, args.rows.num_experts) * hidden);
  T* pre = args.pre.as<T>();
  const float* b1 = args.b1.as<const float>();
  const float* b2 = args.b2.as<const float>();
  const DropoutFactors inner(args.key, args.dropout_rate);
  const DropoutFactors outer({args.key.seed, args.key.stream + 1}, args.dropout_rate);
  const Activation activation = args.activation;

  const LeftRows<Format, Gathered<T>> left({args.x.as<const T>(), dim, args.rows.gather});
  for_each_expert_block(
      pool, scratch.stream(), args.rows, hidden, [&](std::int64_t expert, const Block& block, int worker) {
        const float* bias = b1 + expert * hidden;
        const auto finish = [=](std::int64_t row, std::int64_t column, Vec v, std::int64_t count) {
          const std::int64_t at = row * hidden + column;
          v += load_some(bias + column, count);
          if (pre) store_some(pre + at, v, count);
          v = activate(v, activation);
          if (inner.any()) v *= inner.at(at, count);
          store_some(activated + at, v, count);
        };
        VectorEpilogue epilogue(finish);
        const RightRows<Format, Dense<T>> right({args.w1.as<const T>() + expert * dim * hidden, hidden});
        multiply_block<Format>(left, right, epilogue, block, dim, scratch.worker(worker),
                               dim * hidden <= kSmallWeight);
      });

  T* y = args.y.as<T>();
  const LeftRows<Format, Dense<T>> left_hidden({activated, hidden});
  for_each_expert_block(
      pool, scratch.stream(), args.rows, out, [&](std::int64_t expert, const Block& block, int worker) {
        const float* bias = b2 + expert * out;
        const auto finish = [=](std::int64_t row, std::int64_t column, Vec v, std::int64_t count) {
          const std::int64_t at = row * out + column;
          v += load_some(bias + column, count);
          if (outer.any()) v *= outer.at(at, count);
          store_some(y + at, v, count);
        };
        VectorEpilogue epilogue(finish);
        const RightRows<Format, Dense<T>> right({args.w2.as<const T>() + expert * hidden * out, out});
        multiply_block<Format>(left_hidden, right, epilogue, block, hidden, scratch.worker(worker),
                               hidden * out <= kSmallWeight);
      });
}

// dw[e] = left^T right over the rows of expert e: left(row) gives lines of `m` columns, right of `n`.
template <class T, class Left>
void weight_gradients(const ExpertRows& rows, const Left& left, std::int64_t m, const T* right,
                      std::int64_t n, float* dw, float* db, ThreadPool& pool, Scratch& scratch) {
  using Format = FormatOf<T>;
  // Gradients of many experts are far larger than the caches.
  constexpr std::int64_t kMostCached = std::int64_t{8} << 20;
  const bool streams = rows.num_experts * m * n > kMostCached && n % kLanes == 0 &&
                       reinterpret_cast<std::uintptr_t>(dw) % sizeof(Vec) == 0;
  for_each_block(pool, rows.num_experts, m, n, [&](std::int64_t expert, const Block& block, int worker) {
    const std::int64_t begin = first_row(rows, expert);
    float* target = dw + expert * m * n;
    const auto left_source = left(begin);
    const LeftColumns<Format, std::decay_t<decltype(left_source)>> left_operand(left_source, m);
    const RightRows<Format, Dense<T>> right_operand({right + begin * n, n});
    const auto multiply = [&](const auto& finish) {
      VectorEpilogue epilogue(finish);
      multiply_block<Format>(left_operand, right_operand, epilogue, block,
                             first_row(rows, expert + 1) - begin, scratch.worker(worker),
                             m * n <= kSmallWeight);
    };
    if (streams) {
      multiply([=](std::int64_t row, std::int64_t column, Vec v, std::int64_t) {
        stream(target + row * n + column, v);
      });
      finish_streaming();
    } else {
      multiply([=](std::int64_t row, std::int64_t column, Vec v, std::int64_t count) {
        store_some(target + row * n + column, v, count);
      });
    }
  });
  // One task sums up to 256 columns of one expert.
  constexpr std::int64_t kColumns = 256;
  const std::int64_t column_blocks = ceil_div(n, kColumns);
  pool.parallel_for(rows.num_experts * column_blocks, 1, [&](std::int64_t first, std::int64_t last, int) {
    for (std::int64_t task = first; task < last; ++task) {
      const std::int64_t expert = task / column_blocks, column = task % column_blocks * kColumns;
      const std::int64_t begin = first_row(rows, expert);
      column_sums_of_range(right + begin * n, first_row(rows, expert + 1) - begin, n, column,
                           smaller(column + kColumns, n), db + expert * n);
    }
  });
}

template <class T>
void backward(const ExpertsBackward& args, ThreadPool& pool, Scratch& scratch) {
  using Format = FormatOf<T>;
  const std::int64_t dim = args.dim, hidden = args.hidden, out = args.out;
  const std::int64_t total = first_row(args.rows, args.rows.num_experts);
  const Arena::Frame frame(scratch.stream());
  const DropoutFactors inner(args.key, args.dropout_rate);
  const DropoutFactors outer({args.key.seed, args.key.stream + 1}, args.dropout_rate);
  const bool wants_weights = static_cast<bool>(args.dw1);

  const T* dy = args.dy.as<const T>();
  if (outer.any()) {
    T* dropped = scratch.stream().take<T>(total * out);
    pool.parallel_for(total, 16, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t i = begin * out; i < end * out; i += kLanes) {
        const std::int64_t count = smaller<std::int64_t>(end * out - i, kLanes);
        store_some(dropped + i, load_some(dy + i, count) * outer.at(i, count), count);
      }
    });
    dy = dropped;
  }

  T* dpre = scratch.stream().take<T>(total * hidden);
  T* activated = wants_weights ? scratch.stream().take<T>(total * hidden) : nullptr;
  const T* pre = args.pre.as<const T>();
  const Activation activation = args.activation;
  const LeftRows<Format, Dense<T>> left_dy({dy, out});
  for_each_expert_block(
      pool, scratch.stream(), args.rows, hidden, [&](std::int64_t expert, const Block& block, int worker) {
        const auto finish = [=](std::int64_t row, std::int64_t column, Vec v, std::int64_t count) {
          const std::int64_t at = row * hidden + column;
          const Vec x = load_some(pre + at, count);
          const Vec factors = inner.any() ? inner.at(at, count) : splat(1.0f);
          if (activated) store_some(activated + at, activate(x, activation) * factors, count);
          store_some(dpre + at, v * factors * activation_gradient(x, activation), count);
        };
        VectorEpilogue epilogue(finish);
        const RightColumns<Format, Dense<T>> right({args.w2.as<const T>() + expert * hidden * out, out});
        multiply_block<Format>(left_dy, right, epilogue, block, out, scratch.worker(worker),
                               hidden * out <= kSmallWeight);
      });

  if (T* dx = args.dx.as<T>()) {
    const LeftRows<Format, Dense<T>> left_dpre({dpre, hidden});
    for_each_expert_block(
        pool, scratch.stream(), args.rows, dim, [&](std::int64_t expert, const Block& block, int worker) {
          const auto finish = [=](std::int64_t row, std::int64_t column, Vec v, std::int64_t count) {
            store_some(dx + row * dim + column, v, count);
          };
          VectorEpilogue epilogue(finish);
          const RightColumns<Format, Dense<T>> right({args.w1.as<const T>() + expert * dim * hidden, hidden});
          multiply_block<Format>(left_dpre, right, epilogue, block, hidden, scratch.worker(worker),
                                 dim * hidden <= kSmallWeight);
        });
  }

  if (wants_weights) {
    const T* x = args.x.as<const T>();
    const std::int32_t* gather = args.rows.gather;
    weight_gradients(
        args.rows,
        [&](std::int64_t row) {
          return Dense<T>{activated + row * hidden, hidden};
        },
        hidden, dy, out, args.dw2.as<float>(), args.db2.as<float>(), pool, scratch);
    weight_gradients(
        args.rows,
        [&](std::int64_t row) {
          return gather ? Gathered<T>{x, dim, gather + row} : Gathered<T>{x + row * dim, dim, nullptr};
        },
        dim, dpre, hidden, args.dw1.as<float>(), args.db1.as<float>(), pool, scratch);
  }
}

}  // namespace

void CpuKernels::run(const ExpertsForward& args) {
  with_type(args.x, [&](auto* type) { forward<std::remove_pointer_t<decltype(type)>>(args, pool, scratch); });
}

void CpuKernels::run(const ExpertsBackward& args) {
  with_type(args.x,
            [&](auto* type) { backward<std::remove_pointer_t<decltype(type)>>(args, pool, scratch); });
}

}  // namespace softmoe::cpu::SOFTMOE_ISA

#include "cpu/kernels/isa_end.h"
