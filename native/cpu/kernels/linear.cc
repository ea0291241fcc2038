// Dense products and linear layers: the matrix product with plain or transposed operands, and bias,
// activation and conversion in its epilogue. 2 m n k FLOPs; nothing but the results is written.
#include <type_traits>

#include "cpu/kernels/cpu_kernels.h"
#include "cpu/kernels/isa.h"
// The order matters: what follows is code for the instruction set.
#include "cpu/kernels/column_sums.h"
#include "cpu/kernels/gemm_operands.h"
#include "cpu/kernels/vector_math.h"
#include "cpu/kernels/with_types.h"

namespace softmoe::cpu::SOFTMOE_ISA {

void CpuKernels::run(const MatMul& args) {
  const std::int64_t m = args.m, n = args.n, k = args.k;
  const float alpha = static_cast<float>(args.alpha);
  const bool accumulate = args.accumulate;
  with_type(args.a, [&](auto* a_type) {
    using T = std::remove_pointer_t<decltype(a_type)>;
    using Format = FormatOf<T>;
    with_type(args.y, [&](auto* y_type) {
      using Y = std::remove_pointer_t<decltype(y_type)>;
      for_each_block(pool, args.batch, m, n, [&](std::int64_t item, const Block& block, int worker) {
        const T* a = args.a.as<const T>() + item * m * k;
        const T* b = args.b.as<const T>() + item * k * n;
        Y* y = args.y.as<Y>() + item * m * n;
        const auto finish = [=](std::int64_t row, std::int64_t column, Vec v, std::int64_t count) {
          Y* out = y + row * n + column;
          v = alpha * v;
          store_some(out, accumulate ? load_some(out, count) + v : v, count);
        };
        VectorEpilogue epilogue(finish);
        const LeftRows<Format, Dense<T>> rows({a, k});
        const LeftColumns<Format, Dense<T>> columns({a, m}, m);
        const LeftOperand<Format>& left =
            args.transpose_a ? static_cast<const LeftOperand<Format>&>(columns) : rows;
        const RightRows<Format, Dense<T>> right_rows({b, n});
        const RightColumns<Format, Dense<T>> right_columns({b, k});
        const RightOperand<Format>& right =
            args.transpose_b ? static_cast<const RightOperand<Format>&>(right_columns) : right_rows;
        multiply_block(left, right, epilogue, block, k, scratch.worker(worker),
                       (args.transpose_a ? m : k) * n <= kSmallWeight);
      });
    });
  });
}

void CpuKernels::run(const LinearForward& args) {
  with_type(args.x, [&](auto* x_type) {
    using T = std::remove_pointer_t<decltype(x_type)>;
    using Format = FormatOf<T>;
    with_type(args.y, [&](auto* y_type) {
      using Y = std::remove_pointer_t<decltype(y_type)>;
      const float* bias = args.bias.as<const float>();
      T* pre = args.pre.as<T>();
      Y* y = args.y.as<Y>();
      const std::int64_t out = args.out;
      const Activation activation = args.activation;
      const LeftRows<Format, Dense<T>> left({args.x.as<const T>(), args.in});
      const RightRows<Format, Dense<T>> right({args.w.as<const T>(), args.out});
      for_each_block(pool, 1, args.rows, args.out, [&](std::int64_t, const Block& block, int worker) {
        const auto finish = [=](std::int64_t row, std::int64_t column, Vec v, std::int64_t count) {
          if (bias) v += load_some(bias + column, count);
          const std::int64_t at = row * out + column;
          if (pre) store_some(pre + at, v, count);
          store_some(y + at, activate(v, activation), count);
        };
        VectorEpilogue epilogue(finish);
        multiply_block(left, right, epilogue, block, args.in, scratch.worker(worker),
                       args.in * args.out <= kSmallWeight);
      });
    });
  });
}

void CpuKernels::run(const LinearBackwardInput& args) {
  with_type(args.dy, [&](auto* dy_type) {
    using T = std::remove_pointer_t<decltype(dy_type)>;
    with_type(args.w, [&](auto* w_type) {
      using W = std::remove_pointer_t<decltype(w_type)>;
      using Format = FormatOf<std::conditional_t<sizeof(T) == sizeof(W), T, float>>;
      with_type(args.dx, [&](auto* dx_type) {
        using X = std::remove_pointer_t<decltype(dx_type)>;
        X* dx = args.dx.as<X>();
        const LeftRows<Format, Dense<T>> left({args.dy.as<const T>(), args.out});
        const RightColumns<Format, Dense<W>> right({args.w.as<const W>(), args.out});
        for_each_block(pool, 1, args.rows, args.in, [&](std::int64_t, const Block& block, int worker) {
          const auto finish = [&](std::int64_t row, std::int64_t column, Vec v, std::int64_t count) {
            store_some(dx + row * args.in + column, v, count);
          };
          VectorEpilogue epilogue(finish);
          multiply_block(left, right, epilogue, block, args.out, scratch.worker(worker),
                         args.in * args.out <= kSmallWeight);
        });
      });
    });
  });
}

void CpuKernels::run(const LinearBackwardWeight& args) {
  with_type(args.x, [&](auto* x_type) {
    using T = std::remove_pointer_t<decltype(x_type)>;
    with_type(args.dy, [&](auto* dy_type) {
      using D = std::remove_pointer_t<decltype(dy_type)>;
      using Format = FormatOf<std::conditional_t<sizeof(T) == sizeof(D), T, float>>;
      const D* dy = args.dy.as<const D>();
      float* dw = args.dw.as<float>();
      const LeftColumns<Format, Dense<T>> left({args.x.as<const T>(), args.in}, args.in);
      const RightRows<Format, Dense<D>> right({dy, args.out});
      if (dw) {
        for_each_block(pool, 1, args.in, args.out, [&](std::int64_t, const Block& block, int worker) {
          const auto finish = [&](std::int64_t row, std::int64_t column, Vec v, std::int64_t count) {
            store_some(dw + row * args.out + column, v, count);
          };
          VectorEpilogue epilogue(finish);
          multiply_block(left, right, epilogue, block, args.rows, scratch.worker(worker),
                         args.in * args.out <= kSmallWeight);
        });
      }
      if (args.dbias) column_sums(pool, dy, args.rows, args.out, args.dbias.as<float>());
    });
  });
}

}  // namespace softmoe::cpu::SOFTMOE_ISA

#include "cpu/kernels/isa_end.h"
