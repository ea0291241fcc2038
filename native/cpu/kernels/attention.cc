// Multi-head attention o = softmax(scale q k^T) v and its gradients. For one head and a block of queries:
//   forward   S = scale q k^T, P = exp(S - row maximum), o = (P v) / row sum, log_sum_exp = maximum + ln(sum)
//   backward  P = exp(S - log_sum_exp), dP = do v^T, dS = scale P (dP - do . o), dq = dS k, dk += dS^T q,
//             dv += P^T do
// The probabilities of a block of queries stay in the cache of the thread that needs them: never is more of
// them in memory. 4 (forward) and 10 (backward) * queries * keys * head_dim FLOPs a head.
#include <type_traits>

#include "core/philox.h"
#include "cpu/kernels/cpu_kernels.h"
#include "cpu/kernels/isa.h"
#include "cpu/narrow_attention.h"
// The order matters: what follows is code for the instruction set.
#include "cpu/kernels/dropout.h"
#include "cpu/kernels/gemm_operands.h"
#include "cpu/kernels/vector_math.h"
#include "cpu/kernels/with_types.h"

namespace softmoe::cpu::SOFTMOE_ISA {
namespace {

// Queries of a block: as many as make 64 Ki probabilities (256 KiB), in whole tiles. Depends on nothing else,
// since the sums over blocks in the backward must not depend on batch or threads.
std::int64_t queries_of_block(std::int64_t queries, std::int64_t keys) {
  const std::int64_t fitting = 65536 / larger<std::int64_t>(keys, 1) / kTileRows * kTileRows;
  return smaller(queries, larger<std::int64_t>(fitting, kTileRows));
}

// S[i] becomes exp(S[i] - max S); returns the maximum and the sum.
struct RowSoftmax {
  float maximum, sum;
};
RowSoftmax exponentiate(float* row, std::int64_t count) {
  Vec most = splat(-__builtin_inff());
  for (std::int64_t j = 0; j < count; j += kLanes) {
    const Vec v = load_some(row + j, count - j);
    most = max(most, count - j >= kLanes ? v : keep_first(v, count - j, -__builtin_inff()));
  }
  const float maximum = max_lanes(most);
  Vec total = Vec{};
  for (std::int64_t j = 0; j < count; j += kLanes) {
    const Vec e = exp(load_some(row + j, count - j) - maximum);
    store_some(row + j, e, count - j);
    total += count - j >= kLanes ? e : keep_first(e, count - j, 0.0f);
  }
  return {maximum, sum_lanes(total)};
}

template <class T>
void forward(const AttentionForward& args, ThreadPool& pool, Scratch& scratch) {
  using Format = FormatOf<T>;
  const std::int64_t queries = args.queries, keys = args.keys, dim = args.head_dim;
  const std::int64_t stride = args.heads * dim, heads = args.batch * args.heads;
  if (heads == 0 || queries == 0) return;
  std::int64_t block_queries = queries_of_block(queries, keys);
  while (heads * ceil_div(queries, block_queries) < 2 * pool.threads() && block_queries > 2 * kTileRows) {
    block_queries = round_up(ceil_div(block_queries, 2), kTileRows);
  }
  const std::int64_t blocks = ceil_div(queries, block_queries);
  const DropoutFactors dropout(args.key, args.dropout_rate);
  const float scale = static_cast<float>(args.scale);

  pool.parallel_for(heads * blocks, 1, [&](std::int64_t first, std::int64_t last, int worker) {
    Arena& arena = scratch.worker(worker);
    const Arena::Frame frame(arena);
    float* scores = arena.take<float>(block_queries * keys);
    float* inverse_sums = arena.take<float>(block_queries);
    for (std::int64_t task = first; task < last; ++task) {
      const std::int64_t head = task / blocks, begin = task % blocks * block_queries;
      const std::int64_t rows = smaller(block_queries, queries - begin);
      const std::int64_t q_at = (head / args.heads * queries + begin) * stride + head % args.heads * dim;
      const std::int64_t k_at = head / args.heads * keys * stride + head % args.heads * dim;

      const auto keep_scores = [&](std::int64_t row, std::int64_t column, Vec v, std::int64_t count) {
        store_some(scores + row * keys + column, scale * v, count);
      };
      VectorEpilogue score_epilogue(keep_scores);
      multiply_block<Format>(LeftRows<Format, Dense<T>>({args.q.as<const T>() + q_at, stride}),
                             RightColumns<Format, Dense<T>>({args.k.as<const T>() + k_at, stride}),
                             score_epilogue, Block{0, rows, 0, keys}, dim, arena);

      for (std::int64_t r = 0; r < rows; ++r) {
        float* row = scores + r * keys;
        const RowSoftmax softmax = exponentiate(row, keys);
        inverse_sums[r] = softmax.sum > 0 ? 1 / softmax.sum : 0;
        if (float* log_sum_exp = args.log_sum_exp.as<float>()) {
          log_sum_exp[head * queries + begin + r] = softmax.maximum + log(splat(softmax.sum))[0];
        }
        if (dropout.any()) {
          for (std::int64_t j = 0; j < keys; j += kLanes) {
            const std::int64_t count = smaller<std::int64_t>(keys - j, kLanes);
            const Vec factors = dropout.at((head * queries + begin + r) * keys + j, count);
            store_some(row + j, load_some(row + j, count) * factors, count);
          }
        }
      }

      T* o = args.o.as<T>() + q_at;
      const auto keep_output = [&](std::int64_t row, std::int64_t column, Vec v, std::int64_t count) {
        store_some(o + row * stride + column, v * inverse_sums[row], count);
      };
      VectorEpilogue output_epilogue(keep_output);
      multiply_block<Format>(LeftRows<Format, Dense<float>>({scores, keys}),
                             RightRows<Format, Dense<T>>({args.v.as<const T>() + k_at, stride}),
                             output_epilogue, Block{0, rows, 0, dim}, keys, arena);
    }
  });
}

template <class T>
float dot(const T* a, const T* b, std::int64_t count) {
  Vec sum = Vec{};
  for (std::int64_t i = 0; i < count; i += kLanes)
    sum += load_some(a + i, count - i) * load_some(b + i, count - i);
  return sum_lanes(sum);
}

template <class T>
void backward(const AttentionBackward& args, ThreadPool& pool, Scratch& scratch) {
  using Format = FormatOf<T>;
  const std::int64_t queries = args.queries, keys = args.keys, dim = args.head_dim;
  const std::int64_t stride = args.heads * dim, heads = args.batch * args.heads;
  const std::int64_t block_queries = queries_of_block(queries, keys);
  const DropoutFactors dropout(args.key, args.dropout_rate);
  const float scale = static_cast<float>(args.scale);

  pool.parallel_for(heads, 1, [&](std::int64_t first, std::int64_t last, int worker) {
    Arena& arena = scratch.worker(worker);
    const Arena::Frame frame(arena);
    float* probabilities = arena.take<float>(block_queries * keys);
    float* dscores = arena.take<float>(block_queries * keys);
    float* row_dots = arena.take<float>(block_queries);
    float* dk_sums = arena.take<float>(keys * dim);
    float* dv_sums = arena.take<float>(keys * dim);
    for (std::int64_t head = first; head < last; ++head) {
      const std::int64_t k_at = head / args.heads * keys * stride + head % args.heads * dim;
      const T* k = args.k.as<const T>() + k_at;
      const T* v = args.v.as<const T>() + k_at;
      for (std::int64_t i = 0; i < keys * dim; ++i) dk_sums[i] = dv_sums[i] = 0;

      for (std::int64_t begin = 0; begin < queries; begin += block_queries) {
        const std::int64_t rows = smaller(block_queries, queries - begin);
        const std::int64_t q_at = (head / args.heads * queries + begin) * stride + head % args.heads * dim;
        const T* q = args.q.as<const T>() + q_at;
        const T* d_o = args.d_o.as<const T>() + q_at;
        const float* log_sum_exp = args.log_sum_exp.as<const float>() + head * queries + begin;
        for (std::int64_t r = 0; r < rows; ++r) {
          row_dots[r] = dot(args.o.as<const T>() + q_at + r * stride, d_o + r * stride, dim);
        }

        const auto keep_probabilities = [&](std::int64_t row, std::int64_t column, Vec x,
                                            std::int64_t count) {
          store_some(probabilities + row * keys + column, exp(scale * x - log_sum_exp[row]), count);
        };
        VectorEpilogue probability_epilogue(keep_probabilities);
        multiply_block<Format>(LeftRows<Format, Dense<T>>({q, stride}),
                               RightColumns<Format, Dense<T>>({k, stride}), probability_epilogue,
                               Block{0, rows, 0, keys}, dim, arena);

        const auto keep_dscores = [&](std::int64_t row, std::int64_t column, Vec dp, std::int64_t count) {
          float* probability = probabilities + row * keys + column;
          const Vec p = load_some(probability, count);
          if (dropout.any()) {
            const Vec factors = dropout.at((head * queries + begin + row) * keys + column, count);
            dp *= factors;
            store_some(probability, p * factors, count);
          }
          store_some(dscores + row * keys + column, scale * p * (dp - row_dots[row]), count);
        };
        VectorEpilogue dscore_epilogue(keep_dscores);
        multiply_block<Format>(LeftRows<Format, Dense<T>>({d_o, stride}),
                               RightColumns<Format, Dense<T>>({v, stride}), dscore_epilogue,
                               Block{0, rows, 0, keys}, dim, arena);

        T* dq = args.dq.as<T>() + q_at;
        const auto keep_dq = [&](std::int64_t row, std::int64_t column, Vec x, std::int64_t count) {
          store_some(dq + row * stride + column, x, count);
        };
        VectorEpilogue dq_epilogue(keep_dq);
        multiply_block<Format>(LeftRows<Format, Dense<float>>({dscores, keys}),
                               RightRows<Format, Dense<T>>({k, stride}), dq_epilogue, Block{0, rows, 0, dim},
                               keys, arena);

        const auto add_into = [&](float* sums) {
          return [=](std::int64_t row, std::int64_t column, Vec x, std::int64_t count) {
            float* sum = sums + row * dim + column;
            store_some(sum, load_some(sum, count) + x, count);
          };
        };
        const auto add_dk = add_into(dk_sums), add_dv = add_into(dv_sums);
        VectorEpilogue dk_epilogue(add_dk), dv_epilogue(add_dv);
        multiply_block<Format>(LeftColumns<Format, Dense<float>>({dscores, keys}, keys),
                               RightRows<Format, Dense<T>>({q, stride}), dk_epilogue, Block{0, keys, 0, dim},
                               rows, arena);
        multiply_block<Format>(LeftColumns<Format, Dense<float>>({probabilities, keys}, keys),
                               RightRows<Format, Dense<T>>({d_o, stride}), dv_epilogue,
                               Block{0, keys, 0, dim}, rows, arena);
      }

      T* dk = args.dk.as<T>() + k_at;
      T* dv = args.dv.as<T>() + k_at;
      for (std::int64_t key = 0; key < keys; ++key) {
        for (std::int64_t c = 0; c < dim; c += kLanes) {
          store_some(dk + key * stride + c, load_some(dk_sums + key * dim + c, dim - c), dim - c);
          store_some(dv + key * stride + c, load_some(dv_sums + key * dim + c, dim - c), dim - c);
        }
      }
    }
  });
}

}  // namespace

void CpuKernels::run(const AttentionForward& args) {
  if (is_narrow(args.q, args.head_dim)) return narrow_attention(args, pool);
  with_type(args.q, [&](auto* type) { forward<std::remove_pointer_t<decltype(type)>>(args, pool, scratch); });
}

void CpuKernels::run(const AttentionBackward& args) {
  if (is_narrow(args.q, args.head_dim)) return narrow_attention(args, pool);
  with_type(args.q,
            [&](auto* type) { backward<std::remove_pointer_t<decltype(type)>>(args, pool, scratch); });
}

}  // namespace softmoe::cpu::SOFTMOE_ISA

#include "cpu/kernels/isa_end.h"
