// Elementwise, copying, summing and random kernels. Each reads and writes every element once and is bound by
// memory; arithmetic is float32 whatever is stored.
#include <atomic>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/philox.h"
#include "cpu/kernels/cpu_kernels.h"

#include "cpu/kernels/isa.h"

#include "cpu/kernels/loops.h"
#include "cpu/kernels/random_tiles.h"
#include "cpu/kernels/simd.h"
#include "cpu/kernels/vector_math.h"

namespace softmoe::cpu::SOFTMOE_ISA {
namespace {

// y[i] = f(x[i]).
template <class X, class Y, class Function>
void map(ThreadPool& pool, const X* x, Y* y, std::int64_t count, const Function& f) {
  pool.parallel_for(count, kElementGrain, [&](std::int64_t begin, std::int64_t end, int) {
    by_vectors(begin, end,
               [&](std::int64_t i, std::int64_t n) { store_some(y + i, f(load_some(x + i, n)), n); });
  });
}

// (A lambda without captures would also make a function pointer's target, outside the instruction set.)
struct Unchanged {
  Vec operator()(Vec v) const { return v; }
};

// Nearest integer, ties to even; beyond the range the nearest end; NaN gives 0.
inline std::int32_t to_int32(float value) {
  if (!(value == value)) return 0;
  if (value >= 2147483648.0f) return INT32_MAX;
  if (value < -2147483648.0f) return INT32_MIN;
  return static_cast<std::int32_t>(__builtin_rintf(value));
}

inline float element_to_float(std::int32_t value) { return static_cast<float>(value); }
inline float element_to_float(float value) { return value; }
inline float element_to_float(BFloat16 value) { return to_float(value); }
inline void set_element(std::int32_t& target, float value) { target = to_int32(value); }
inline void set_element(float& target, float value) { target = value; }
inline void set_element(BFloat16& target, float value) { target = to_bfloat16(value); }

template <class X, class Y>
void cast_elements(ThreadPool& pool, const X* x, Y* y, std::int64_t count) {
  pool.parallel_for(count, kElementGrain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) set_element(y[i], element_to_float(x[i]));
  });
}

void copy_bytes(ThreadPool& pool, const void* x, void* y, std::int64_t bytes) {
  pool.parallel_for(bytes, 4 * kElementGrain, [&](std::int64_t begin, std::int64_t end, int) {
    std::memcpy(static_cast<char*>(y) + begin, static_cast<const char*>(x) + begin,
                static_cast<std::size_t>(end - begin));
  });
}

}  // namespace

void CpuKernels::run(const Fill& args) {
  const auto fill = [&](auto* y, auto value) {
    pool.parallel_for(args.count, kElementGrain, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t i = begin; i < end; ++i) y[i] = value;
    });
  };
  if (args.y.dtype == DType::kInt32) {
    fill(args.y.as<std::int32_t>(), static_cast<std::int32_t>(args.value));
  } else if (args.y.dtype == DType::kBFloat16) {
    fill(args.y.as<BFloat16>(), to_bfloat16(static_cast<float>(args.value)));
  } else {
    fill(args.y.as<float>(), static_cast<float>(args.value));
  }
}

void CpuKernels::run(const Cast& args) {
  const DType from = args.x.dtype, to = args.y.dtype;
  if (from == to) {
    copy_bytes(pool, args.x.data, args.y.data, args.count * static_cast<std::int64_t>(size_of(from)));
  } else if (from == DType::kInt32) {
    with_float_type(to, [&](auto y) {
      cast_elements(pool, args.x.as<std::int32_t>(), args.y.as<decltype(y)>(), args.count);
    });
  } else if (to == DType::kInt32) {
    with_float_type(from, [&](auto x) {
      cast_elements(pool, args.x.as<decltype(x)>(), args.y.as<std::int32_t>(), args.count);
    });
  } else {
    with_float_types(from, to, [&](auto x, auto y) {
      map(pool, args.x.as<decltype(x)>(), args.y.as<decltype(y)>(), args.count, Unchanged{});
    });
  }
}

void CpuKernels::run(const Add& args) {
  const float alpha = static_cast<float>(args.alpha);
  with_float_types(args.a.dtype, args.b.dtype, args.y.dtype, [&](auto a_type, auto b_type, auto y_type) {
    const auto* a = args.a.as<const decltype(a_type)>();
    const auto* b = args.b.as<const decltype(b_type)>();
    auto* y = args.y.as<decltype(y_type)>();
    pool.parallel_for(args.count, kElementGrain, [&](std::int64_t begin, std::int64_t end, int) {
      if (args.period == 1) {
        const Vec addend = splat(alpha * to_float(b[0]));
        by_vectors(begin, end, [&](std::int64_t i, std::int64_t n) {
          store_some(y + i, load_some(a + i, n) + addend, n);
        });
        return;
      }
      for (std::int64_t run = begin; run < end;) {
        const std::int64_t offset = run % args.period;
        const std::int64_t run_end = smaller(end, run + args.period - offset);
        const auto* addends = b + offset - run;
        by_vectors(run, run_end, [&](std::int64_t i, std::int64_t n) {
          store_some(y + i, load_some(a + i, n) + alpha * load_some(addends + i, n), n);
        });
        run = run_end;
      }
    });
  });
}

void CpuKernels::run(const Multiply& args) {
  with_float_type(args.y.dtype, [&](auto type) {
    using T = decltype(type);
    const T *a = args.a.as<T>(), *b = args.b.as<T>();
    T* y = args.y.as<T>();
    pool.parallel_for(args.count, kElementGrain, [&](std::int64_t begin, std::int64_t end, int) {
      by_vectors(begin, end, [&](std::int64_t i, std::int64_t n) {
        store_some(y + i, load_some(a + i, n) * load_some(b + i, n), n);
      });
    });
  });
}

void CpuKernels::run(const Scale& args) {
  float factor = static_cast<float>(args.factor);
  if (args.device_factor) factor *= args.device_factor.as<float>()[0];
  with_float_type(args.y.dtype, [&](auto type) {
    using T = decltype(type);
    map(pool, args.x.as<T>(), args.y.as<T>(), args.count, [factor](Vec v) { return v * factor; });
  });
}

void CpuKernels::run(const StridedCopy& args) {
  const auto element = static_cast<std::int64_t>(size_of(args.x.dtype));
  const std::int64_t row_bytes = args.inner * element;
  const char* x = args.x.as<char>();
  char* y = args.y.as<char>();
  // Chunks are ranges of bytes of the dense rows, so that one long row is shared as well as many short ones.
  pool.parallel_for(
      args.outer * row_bytes, 4 * kElementGrain, [&](std::int64_t begin, std::int64_t end, int) {
        while (begin < end) {
          const std::int64_t row = begin / row_bytes, offset = begin - row * row_bytes;
          const std::int64_t bytes = smaller(end - begin, row_bytes - offset);
          std::memcpy(y + row * args.y_stride * element + offset, x + row * args.x_stride * element + offset,
                      static_cast<std::size_t>(bytes));
          begin += bytes;
        }
      });
}

void CpuKernels::run(const BroadcastMiddle& args) {
  const float scale = static_cast<float>(args.scale);
  with_float_types(args.x.dtype, args.y.dtype, [&](auto x_type, auto y_type) {
    const auto* x = args.x.as<const decltype(x_type)>();
    auto* y = args.y.as<decltype(y_type)>();
    // y is runs that begin at multiples of `run`: rows of `inner`, or one value repeated when inner is 1.
    const bool single = args.inner == 1;
    const std::int64_t run = single ? args.middle : args.inner;
    pool.parallel_for(
        args.outer * args.middle * args.inner, kElementGrain, [&](std::int64_t begin, std::int64_t end, int) {
          while (begin < end) {
            const std::int64_t index = begin / run, offset = begin - index * run;
            const std::int64_t stop = smaller(end, (index + 1) * run);
            if (single) {
              const Vec value = splat(scale * to_float(x[index]));
              by_vectors(begin, stop, [&](std::int64_t i, std::int64_t n) { store_some(y + i, value, n); });
            } else {
              const auto* row = x + index / args.middle * args.inner + offset - begin;
              by_vectors(begin, stop, [&](std::int64_t i, std::int64_t n) {
                store_some(y + i, scale * load_some(row + i, n), n);
              });
            }
            begin = stop;
          }
        });
  });
}

void CpuKernels::run(const Activate& args) {
  with_float_types(args.x.dtype, args.y.dtype, [&](auto x_type, auto y_type) {
    map(pool, args.x.as<decltype(x_type)>(), args.y.as<decltype(y_type)>(), args.count,
        [&](Vec v) { return activate(v, args.activation); });
  });
}

void CpuKernels::run(const ActivateBackward& args) {
  with_float_types(args.x.dtype, args.dy.dtype, args.dx.dtype, [&](auto x_type, auto dy_type, auto dx_type) {
    const auto* x = args.x.as<const decltype(x_type)>();
    const auto* dy = args.dy.as<const decltype(dy_type)>();
    auto* dx = args.dx.as<decltype(dx_type)>();
    pool.parallel_for(args.count, kElementGrain, [&](std::int64_t begin, std::int64_t end, int) {
      by_vectors(begin, end, [&](std::int64_t i, std::int64_t n) {
        store_some(dx + i, load_some(dy + i, n) * activation_gradient(load_some(x + i, n), args.activation),
                   n);
      });
    });
  });
}

void CpuKernels::run(const Dropout& args) {
  const float rate = static_cast<float>(args.rate), factor = static_cast<float>(1 / (1 - args.rate));
  with_float_types(args.x.dtype, args.y.dtype, [&](auto x_type, auto y_type) {
    const auto* x = args.x.as<const decltype(x_type)>();
    auto* y = args.y.as<decltype(y_type)>();
    pool.parallel_for(args.count, kElementGrain, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t i = begin; i < end; i += kRandomTile) {
        float draws[kRandomTile];
        uniform_tile(args.key, i / kRandomTile, draws);
        by_vectors(i, smaller(end, i + kRandomTile), [&](std::int64_t j, std::int64_t n) {
          const Vec kept = load_some(x + j, n) * factor;
          store_some(y + j, load(draws + (j - i)) < rate ? splat(0.0f) : kept, n);
        });
      }
    });
  });
}

void CpuKernels::run(const RandomFill& args) {
  const float mean = static_cast<float>(args.mean), scale = static_cast<float>(args.scale);
  with_float_type(args.y.dtype, [&](auto type) {
    auto* y = args.y.as<decltype(type)>();
    pool.parallel_for(args.count, kElementGrain, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t i = begin; i < end; i += kRandomTile) {
        float draws[kRandomTile];
        switch (args.distribution) {
          case Distribution::kUniform:
            uniform_tile(args.key, i / kRandomTile, draws);
            break;
          case Distribution::kNormal:
            normal_tile(args.key, i / kRandomTile, draws);
            break;
          case Distribution::kTruncatedNormal:
            truncated_normal_tile(args.key, i / kRandomTile, draws);
            break;
        }
        by_vectors(i, smaller(end, i + kRandomTile), [&](std::int64_t j, std::int64_t n) {
          store_some(y + j, mean + scale * load(draws + (j - i)), n);
        });
      }
    });
  });
}

namespace {

constexpr std::int64_t kTransposeTile = 32;  // two tiles of 32-bit elements take 8 KiB of the first cache

template <class T>
void transpose(ThreadPool& pool, const T* x, T* y, std::int64_t batch, std::int64_t rows,
               std::int64_t columns) {
  const std::int64_t strips = ceil_div(columns, kTransposeTile);
  const std::int64_t grain = row_grain(kTransposeTile * rows);
  pool.parallel_for(batch * strips, grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t strip = begin; strip < end; ++strip) {
      const T* source = x + strip / strips * rows * columns;
      T* target = y + strip / strips * rows * columns;
      const std::int64_t first = strip % strips * kTransposeTile,
                         last = smaller(columns, first + kTransposeTile);
      for (std::int64_t row = 0; row < rows; row += kTransposeTile) {
        const std::int64_t row_end = smaller(rows, row + kTransposeTile);
        for (std::int64_t c = first; c < last; ++c) {
          for (std::int64_t r = row; r < row_end; ++r) target[c * rows + r] = source[r * columns + c];
        }
      }
    }
  });
}

}  // namespace

void CpuKernels::run(const Transpose& args) {
  if (size_of(args.x.dtype) == 2) {
    transpose(pool, args.x.as<std::uint16_t>(), args.y.as<std::uint16_t>(), args.batch, args.rows,
              args.columns);
  } else {
    transpose(pool, args.x.as<std::uint32_t>(), args.y.as<std::uint32_t>(), args.batch, args.rows,
              args.columns);
  }
}

void CpuKernels::run(const Patchify& args) {
  const std::int64_t down = args.height / args.patch, across = args.width / args.patch;
  const std::int64_t segment =
      args.patch * args.channels;  // a patch's share of an image row, contiguous in both
  const std::int64_t row = across * segment;
  with_float_types(args.x.dtype, args.y.dtype, [&](auto x_type, auto y_type) {
    const auto* x = args.x.as<const decltype(x_type)>();
    auto* y = args.y.as<decltype(y_type)>();
    for_rows(pool, args.batch * down * args.patch, row, [&](std::int64_t line, int) {
      // image rows that belong to patches
      const std::int64_t image = line / (down * args.patch), within = line % (down * args.patch);
      const std::int64_t patch_row = within / args.patch, y_in_patch = within % args.patch;
      for (std::int64_t column = 0; column < across; ++column) {
        const std::int64_t image_at =
            ((image * args.height + within) * args.width) * args.channels + column * segment;
        const std::int64_t patch_at =
            ((image * down + patch_row) * across + column) * args.patch * segment + y_in_patch * segment;
        const auto* source = x + (args.inverse ? patch_at : image_at);
        auto* target = y + (args.inverse ? image_at : patch_at);
        by_vectors(0, segment, [&](std::int64_t i, std::int64_t n) {
          store_some(target + i, load_some(source + i, n), n);
        });
      }
    });
  });
}

void CpuKernels::run(const CountNonFinite& args) {
  std::atomic<std::int32_t> total{0};
  with_float_type(args.x.dtype, [&](auto type) {
    using T = decltype(type);
    using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint16_t>;
    constexpr Bits kExponent = sizeof(T) == 4 ? static_cast<Bits>(0x7f800000u) : static_cast<Bits>(0x7f80u);
    const Bits* x = args.x.as<Bits>();
    pool.parallel_for(args.count, kElementGrain, [&](std::int64_t begin, std::int64_t end, int) {
      std::int32_t count = 0;
      for (std::int64_t i = begin; i < end; ++i) count += (x[i] & kExponent) == kExponent;
      if (count) total.fetch_add(count, std::memory_order_relaxed);
    });
  });
  args.y.as<std::int32_t>()[0] = total.load();
}

}  // namespace softmoe::cpu::SOFTMOE_ISA

#include "cpu/kernels/isa_end.h"
