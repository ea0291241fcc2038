// Elementwise and random kernels: every element is read and written once, four a thread; arithmetic is
// float32 whatever is stored. Bound by memory.
#include "cuda/kernels/activation.cuh"
#include "cuda/kernels/any_floats.cuh"
#include "cuda/kernels/dropout.cuh"
#include "cuda/kernels/elementwise_params.h"
#include "cuda/kernels/reduce.cuh"

namespace softmoe::cuda {

constexpr int kThreads = 256;

#define SOFTMOE_KERNEL(name, Params) \
  extern "C" __global__ void __launch_bounds__(kThreads) name(const __grid_constant__ Params p)

SOFTMOE_KERNEL(fill, FillBits) {
  by_fours(p.count, [&](std::int64_t i, int n) {
    if (p.aligned && n == 4) {
      if (p.is_16_bit) {
        const std::uint32_t pair = p.value | p.value << 16;
        *reinterpret_cast<uint2*>(static_cast<std::uint16_t*>(p.y) + i) = make_uint2(pair, pair);
      } else {
        *reinterpret_cast<uint4*>(static_cast<std::uint32_t*>(p.y) + i) =
            make_uint4(p.value, p.value, p.value, p.value);
      }
      return;
    }
    for (int e = 0; e < n; ++e) {
      if (p.is_16_bit) {
        static_cast<std::uint16_t*>(p.y)[i + e] = static_cast<std::uint16_t>(p.value);
      } else {
        static_cast<std::uint32_t*>(p.y)[i + e] = p.value;
      }
    }
  });
}

SOFTMOE_KERNEL(cast_floats, CastFloats) {
  by_fours(p.count, [&](std::int64_t i, int n) { store4(p.y, i, load4(p.x, i, n), n); });
}

// To integers: ties to even, saturating, NaN gives 0.
SOFTMOE_KERNEL(cast_integers, CastIntegers) {
  by_fours(p.count, [&](std::int64_t i, int n) {
    const bool whole = p.aligned && n == 4;
    std::int32_t* integers = p.integers + i;
    if (p.to_integers) {
      const float4 x = load4(p.floats, i, n);
      const auto nearest = [](float v) { return isnan(v) ? 0 : __float2int_rn(v); };
      const int4 y = make_int4(nearest(x.x), nearest(x.y), nearest(x.z), nearest(x.w));
      if (whole) {
        *reinterpret_cast<int4*>(integers) = y;
        return;
      }
      integers[0] = y.x;
      if (n > 1) integers[1] = y.y;
      if (n > 2) integers[2] = y.z;
      if (n > 3) integers[3] = y.w;
    } else {
      int4 x = make_int4(0, 0, 0, 0);
      if (whole) {
        x = *reinterpret_cast<const int4*>(integers);
      } else {
        x.x = integers[0];
        if (n > 1) x.y = integers[1];
        if (n > 2) x.z = integers[2];
        if (n > 3) x.w = integers[3];
      }
      store4(p.floats, i,
             make_float4(__int2float_rn(x.x), __int2float_rn(x.y), __int2float_rn(x.z), __int2float_rn(x.w)),
             n);
    }
  });
}

SOFTMOE_KERNEL(add, AddParams) {
  by_fours(p.count, [&](std::int64_t i, int n) {
    const float4 a = load4(p.a, i, n);
    float4 b;
    if (p.period == p.count) {
      b = load4(p.b, i, n);
    } else if (p.period == 1) {
      const float one = load(p.b, 0);
      b = make_float4(one, one, one, one);
    } else {
      std::int64_t at = divide(i, p.period).rest;
      if (at + n <= p.period) {
        b = load4(p.b, at, n);
      } else {
        const auto next = [&] {
          const float value = load(p.b, at);
          at = at + 1 == p.period ? 0 : at + 1;
          return value;
        };
        b.x = next(), b.y = next(), b.z = next(), b.w = next();
      }
    }
    store4(p.y, i, map4(a, b, [&](float u, float v) { return u + p.alpha * v; }), n);
  });
}

SOFTMOE_KERNEL(multiply, MultiplyParams) {
  by_fours(p.count, [&](std::int64_t i, int n) {
    store4(p.y, i, map4(load4(p.a, i, n), load4(p.b, i, n), [](float u, float v) { return u * v; }), n);
  });
}

SOFTMOE_KERNEL(scale, ScaleParams) {
  const float factor = p.device_factor ? p.factor * p.device_factor[0] : p.factor;
  by_fours(p.count, [&](std::int64_t i, int n) {
    store4(p.y, i, map4(load4(p.x, i, n), [&](float v) { return v * factor; }), n);
  });
}

SOFTMOE_KERNEL(activation, ActivateParams) {
  by_fours(p.count, [&](std::int64_t i, int n) {
    store4(p.y, i, map4(load4(p.x, i, n), [&](float v) { return activate(v, p.activation); }), n);
  });
}

SOFTMOE_KERNEL(activation_backward, ActivateBackwardParams) {
  by_fours(p.count, [&](std::int64_t i, int n) {
    const auto gradient = [&](float x, float dy) { return dy * activation_derivative(x, p.activation); };
    store4(p.dx, i, map4(load4(p.x, i, n), load4(p.dy, i, n), gradient), n);
  });
}

SOFTMOE_KERNEL(dropout, DropoutParams) {
  by_fours(p.count, [&](std::int64_t i, int n) {
    const float4 factors = dropout_factors(p.key, i, p.rate);
    // Selected rather than multiplied: what is dropped may be infinite.
    const auto drop = [](float x, float factor) { return factor == 0 ? 0 : x * factor; };
    store4(p.y, i, map4(load4(p.x, i, n), factors, drop), n);
  });
}

SOFTMOE_KERNEL(random_fill, RandomFillParams) {
  by_fours(p.count, [&](std::int64_t i, int n) {
    const PhiloxBlock block = philox(p.key, static_cast<std::uint64_t>(i / 4));
    float4 draws;
    if (p.distribution == Distribution::kNormal) {
      const float first = normal_radius(block.word[0]), second = normal_radius(block.word[2]);
      const SineCosine turn = sine_cosine_from_word(block.word[1]);
      const SineCosine other_turn = sine_cosine_from_word(block.word[3]);
      draws = make_float4(first * turn.cosine, first * turn.sine, second * other_turn.cosine,
                          second * other_turn.sine);
    } else {
      const bool uniform = p.distribution == Distribution::kUniform;
      const auto draw = [&](std::uint32_t word) {
        return uniform ? uniform_from_word(word) : truncated_normal_from_word(word);
      };
      draws = make_float4(draw(block.word[0]), draw(block.word[1]), draw(block.word[2]), draw(block.word[3]));
    }
    store4(p.y, i, map4(draws, [&](float v) { return p.mean + p.scale * v; }), n);
  });
}

SOFTMOE_KERNEL(count_non_finite, CountNonFiniteParams) {
  int found = 0;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kThreads * 4;
  for (std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4; i < p.count;
       i += stride) {
    const int n = static_cast<int>(min(p.count - i, static_cast<std::int64_t>(4)));
    const float4 v = load4(p.x, i, n);
    found += !isfinite(v.x) + !isfinite(v.y) + !isfinite(v.z) + !isfinite(v.w);
  }
  found = __reduce_add_sync(kFullWarp, found);
  // A sum of integers is the same in any order.
  if (threadIdx.x % kWarpSize == 0 && found > 0) atomicAdd(p.y, found);
}

}  // namespace softmoe::cuda
