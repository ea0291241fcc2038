// Gradients of the Soft MoE router. With G1 = x dslots_in^T and G2 = dy slots_out^T (per sequence)
//   dlogits = D (G1 - slots_in . dslots_in) + C (G2 - y . dy)
// One kernel makes both products of a tile and applies the weights, made anew, in its epilogues: neither D,
// C, dD nor dC is stored. Then
//   dxhat = scale dlogits phihat^T          dx = r (dxhat - xhat (xhat . dxhat))
//   dphihat = scale xhat^T dlogits          dphi likewise by columns; dscale = sum over tokens of xhat .
//   dxhat / scale
// where the two products are those of products_*.cu in float32. With eps outside the root, r = 1 / (n + eps),
// the second term's factor r^3 becomes r^2 / n.
#include "cuda/kernels/gemm.cuh"
#include "cuda/kernels/row_team.cuh"
#include "cuda/kernels/soft_weights.cuh"

namespace softmoe::cuda {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;

// --- row dots: a warp a row
// --------------------------------------------------------------------------------------

template <class T>
__device__ __forceinline__ void row_dots(const RowDots& p) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (i >= p.count) return;
  const int lane = threadIdx.x % kWarpSize, dim = p.shape.dim;
  std::int64_t row = i;
  if (p.of_slots) {
    row = slot_row(p.shape, static_cast<int>(i / p.shape.slots), static_cast<int>(i % p.shape.slots));
  }
  const T* a = static_cast<const T*>(p.a) + row * dim;
  const T* b = static_cast<const T*>(p.b) + row * dim;
  float sum = 0;
  for (int k = lane * 4; k < dim; k += kWarpSize * 4) {
    const float4 u = load4_partial(a + k, dim - k, p.aligned), v = load4_partial(b + k, dim - k, p.aligned);
    sum += u.x * v.x + u.y * v.y + u.z * v.z + u.w * v.w;
  }
  sum = warp_sum(sum);
  if (lane == 0) p.dots[i] = sum;
}

extern "C" __global__ void __launch_bounds__(kThreads)
    soft_row_dots_bfloat16(const __grid_constant__ RowDots params) {
  row_dots<bfloat16>(params);
}
extern "C" __global__ void __launch_bounds__(kThreads)
    soft_row_dots_float32(const __grid_constant__ RowDots params) {
  row_dots<float>(params);
}

// --- dlogits
// -----------------------------------------------------------------------------------------------------

template <class T>
using GradientTile = GemmTile<T, 64, 64, 2, 2, 128, 3, Layout::kDepthContiguous, Layout::kDepthContiguous>;

template <class T>
__device__ __forceinline__ void logits_gradient(const LogitsGradient& p) {
  using Tile = GradientTile<T>;
  extern __shared__ __align__(128) char shared[];
  int index = blockIdx.x;
  const int first = index % p.row_tiles * Tile::kM;
  index /= p.row_tiles;
  const int column = index % p.column_tiles * Tile::kN, b = index / p.column_tiles;
  const int tokens = p.shape.tokens, slots = p.shape.slots, dim = p.shape.dim;
  const std::size_t sequence = static_cast<std::size_t>(b) * tokens;
  float* result = reinterpret_cast<float*>(shared);

  const auto multiply = [&](typename Tile::Accumulators& c, const LogitsGradientSide& side) {
    Tile::clear(c);
    if (!side.a) return;
    CopiedOperand<T, typename Tile::PanelA, Tile::kThreads, SameRow> source_a(
        static_cast<const T*>(side.a) + sequence * dim, dim, {first, min(first + Tile::kM, tokens), 0, dim},
        p.operands_aligned, {});
    CopiedOperand<T, typename Tile::PanelB, Tile::kThreads, SlotRow> source_b(
        static_cast<const T*>(side.b), dim, {column, min(column + Tile::kN, slots), 0, dim},
        p.operands_aligned, {p.shape, b});
    Tile::multiply(c, source_a, source_b, (dim + Tile::kDepth - 1) / Tile::kDepth, shared, p.exact);
  };

  // A thread owns four columns.
  constexpr int kFours = Tile::kN / 4, kPerThread = Tile::kM * kFours / Tile::kThreads;
  static_assert(Tile::kThreads % kFours == 0, "the same columns in every round");
  const auto row_of = [](int i) { return (static_cast<int>(threadIdx.x) + i * Tile::kThreads) / kFours; };
  const int c4 = static_cast<int>(threadIdx.x) % kFours * 4, j = column + c4, count = min(slots - j, 4);
  float4 slot_dots = make_float4(0, 0, 0, 0);
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    const LogitsGradientSide& side = p.sides[s];
    if (!side.a || side.weights.side == RoutingSide::kCombine || count <= 0) continue;
    slot_dots =
        load4_partial(side.dots + static_cast<std::size_t>(b) * slots + j, count, side.weights.aligned);
  }
  // weight * (product - dots) of four slots.
  const auto side_gradient = [&](const LogitsGradientSide& side, int m, float4 logits, float4 v) {
    const SideWeights& weights = side.weights;
    const float4 weight = weights_of(weights, b, m, j, logits);
    float4 dots = slot_dots;
    if (weights.side == RoutingSide::kCombine) {
      const float dot = side.dots[sequence + m];
      dots = make_float4(dot, dot, dot, dot);
    }
    return make_float4(weight.x * (v.x - dots.x), weight.y * (v.y - dots.y), weight.z * (v.z - dots.z),
                       weight.w * (v.w - dots.w));
  };

  // The first product stays in registers while the second is made, so that logits and results move once.
  typename Tile::Accumulators c;
  float4 kept[kPerThread];
  multiply(c, p.sides[0]);
  Tile::to_shared(c, result);
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) kept[i] = load4(result + row_of(i) * Tile::kResultPitch + c4);
  __syncthreads();  // the stages of the next product take the place of the results
  multiply(c, p.sides[1]);
  Tile::to_shared(c, result);
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int m = first + row_of(i);
    if (m >= tokens || count <= 0) continue;
    const SideWeights& any = p.sides[p.sides[0].a ? 0 : 1].weights;
    const float4 logits = load_logits(any, b, m, j);
    float4 sum = make_float4(0, 0, 0, 0);
    if (p.sides[0].a) sum = side_gradient(p.sides[0], m, logits, kept[i]);
    if (p.sides[1].a) {
      const float4 v =
          side_gradient(p.sides[1], m, logits, load4(result + row_of(i) * Tile::kResultPitch + c4));
      sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    float* target = p.dlogits + (sequence + m) * slots + j;
    if (p.accumulate) {
      const float4 old = load4_partial(target, count, any.aligned);
      sum = make_float4(sum.x + old.x, sum.y + old.y, sum.z + old.z, sum.w + old.w);
    }
    store4_partial(target, sum, count, any.aligned);
  }
}

extern "C" __global__ void __launch_bounds__(128, 2)
    soft_logits_gradient_bfloat16(const __grid_constant__ LogitsGradient params) {
  logits_gradient<bfloat16>(params);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    soft_logits_gradient_float32(const __grid_constant__ LogitsGradient params) {
  logits_gradient<float>(params);
}

// --- through the normalisations
// ----------------------------------------------------------------------------------

constexpr int kColumnsOfBlock = 32, kRowsOfBlock = kThreads / kColumnsOfBlock;

// A block of 32 slots and kNormalizedRows rows.
extern "C" __global__ void __launch_bounds__(kThreads)
    soft_normalize_slots(const __grid_constant__ NormalizeSlots p) {
  const int j = blockIdx.x * kColumnsOfBlock + threadIdx.x % kColumnsOfBlock;
  if (j >= p.slots) return;
  const float norm = p.slot_norm[j];
  const int begin = blockIdx.y * kNormalizedRows, end = min(begin + kNormalizedRows, p.dim);
  for (int d = begin + threadIdx.x / kColumnsOfBlock; d < end; d += kRowsOfBlock) {
    const std::size_t at = static_cast<std::size_t>(d) * p.slots + j;
    p.phihat[at] = p.phi[at] * norm;
  }
}

// Factor of v (v . dvhat) in the gradient through v / norm, r being the inverse norm and n the norm without
// eps.
__device__ __forceinline__ float projection_factor(float r, float n, bool eps_inside_root) {
  if (eps_inside_root) return r * r * r;
  return n > 0 ? r * r / n : 0.0f;
}

// A warp a token, whose x and dxhat it keeps in registers.
template <class T>
__device__ __forceinline__ void token_gradient(const TokenGradient& p) {
  using Team = RowTeam<kWarpSize>;
  const std::int64_t row = Team::row();
  if (row >= p.rows) return;
  const std::int64_t first = row * p.dim;
  const T* x = static_cast<const T*>(p.x) + first;
  const float r = p.token_norm[row], scale = *p.scale;
  const auto load_both = [&](std::int64_t i, int n) -> TwoFours {
    return {load4_partial(x + i, n, p.aligned), load4_partial(p.dxhat + first + i, n, p.aligned)};
  };
  const auto kept = Team::keep(p.dim, load_both);
  kept.for_fours([&](std::int64_t i, int n, const TwoFours& both) {
    store4_partial(p.xhat + first + i, map4(both.a, [&](float v) { return v * r; }), n, p.aligned);
  });
  const float product = kept.sum_of([](const TwoFours& both) {
    return map4(both.a, both.b, [](float value, float d) { return value * d; });
  });
  const float squares = kept.sum_of(
      [](const TwoFours& both) { return map4(both.a, [](float value) { return value * value; }); });
  if (Team::rank() == 0) p.dscale_parts[row] = product * r;
  if (!p.dx) return;
  const float factor = product * projection_factor(r, sqrtf(squares), p.eps_inside_root);
  T* dx = static_cast<T*>(p.dx) + first;
  kept.for_fours([&](std::int64_t i, int n, const TwoFours& both) {
    float4 v = map4(both.a, both.b, [&](float value, float d) { return scale * (r * d - factor * value); });
    if (p.accumulate) {
      v = map4(v, load4_partial(dx + i, n, p.aligned), [](float a, float b) { return a + b; });
    }
    store4_partial(dx + i, v, n, p.aligned);
  });
}

extern "C" __global__ void __launch_bounds__(kThreads)
    soft_token_gradient_bfloat16(const __grid_constant__ TokenGradient params) {
  token_gradient<bfloat16>(params);
}
extern "C" __global__ void __launch_bounds__(kThreads)
    soft_token_gradient_float32(const __grid_constant__ TokenGradient params) {
  token_gradient<float>(params);
}

// A block a column of 32 slots. A thread keeps its first kKeptRows rows in registers: 256 rows of a block;
// those of a larger dim are read again.
extern "C" __global__ void __launch_bounds__(kThreads)
    soft_slot_gradient(const __grid_constant__ SlotGradient p) {
  __shared__ float products[kRowsOfBlock][kColumnsOfBlock], squares[kRowsOfBlock][kColumnsOfBlock];
  const int lane = threadIdx.x % kColumnsOfBlock, part = threadIdx.x / kColumnsOfBlock;
  const int j = blockIdx.x * kColumnsOfBlock + lane;
  constexpr int kKeptRows = 32;
  const auto place = [&](int d) { return static_cast<std::size_t>(d) * p.slots + j; };
  float product = 0, square = 0, kept_phi[kKeptRows], kept_gradient[kKeptRows];
  const auto add = [&](float phi, float gradient) {
    product += phi * gradient;
    square += phi * phi;
  };
  if (j < p.slots) {
#pragma unroll
    for (int k = 0; k < kKeptRows; ++k) {
      const int d = part + k * kRowsOfBlock;
      if (d >= p.dim) continue;
      kept_phi[k] = p.phi[place(d)], kept_gradient[k] = p.dphihat[place(d)];
      add(kept_phi[k], kept_gradient[k]);
    }
    for (int d = part + kKeptRows * kRowsOfBlock; d < p.dim; d += kRowsOfBlock) {
      add(p.phi[place(d)], p.dphihat[place(d)]);
    }
  }
  products[part][lane] = product;
  squares[part][lane] = square;
  __syncthreads();
  if (j >= p.slots) return;
  product = square = 0;
  for (int other = 0; other < kRowsOfBlock; ++other) {
    product += products[other][lane];
    square += squares[other][lane];
  }
  const float r = p.slot_norm[j], scale = *p.scale;
  const float factor = product * projection_factor(r, sqrtf(square), p.eps_inside_root);
  const auto gradient = [&](float phi, float dphihat) { return scale * (r * dphihat - factor * phi); };
#pragma unroll
  for (int k = 0; k < kKeptRows; ++k) {
    const int d = part + k * kRowsOfBlock;
    if (d < p.dim) p.dphi[place(d)] = gradient(kept_phi[k], kept_gradient[k]);
  }
  for (int d = part + kKeptRows * kRowsOfBlock; d < p.dim; d += kRowsOfBlock) {
    p.dphi[place(d)] = gradient(p.phi[place(d)], p.dphihat[place(d)]);
  }
}

// One block: strided sums of the threads, then of the block, both in a fixed order.
extern "C" __global__ void __launch_bounds__(kThreads) soft_sum_all(const __grid_constant__ SumAll p) {
  __shared__ float shared[kWarps];
  float sum = 0;
  for (std::int64_t i = threadIdx.x; i < p.count; i += kThreads) sum += p.x[i];
  sum = block_sum<kThreads>(sum, shared);
  if (threadIdx.x == 0) *p.y = sum;
}

}  // namespace softmoe::cuda
