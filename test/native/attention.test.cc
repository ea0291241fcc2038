// Attention, forward and backward, against loops in double: one key, odd head sizes, several blocks of
// queries, dropout; a sample alone has the same bits as in a batch.
#include "cases.h"
#include "core/philox.h"

namespace softmoe::testing {
namespace {

using Doubles = std::vector<double>;

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

void check_attention(Kernels& kernels, Random& random, std::int64_t queries, std::int64_t keys) {
  const DType dtype = random.dtype();
  const std::int64_t batch = random.integer(1, 2), heads = random.integer(1, 3);
  const std::int64_t dim =
      random.choose<std::int64_t>({1, 5, 8, 16, 21, 64, 80, 101, 128, 130, 192, 201, 256});
  const double rate = random.choose({0.0, 0.0, 0.25}), scale = random.choose({1.0, 0.125});
  const RandomKey key{9, 4};
  const Context context(std::string(name_of(dtype)) + " batch " + std::to_string(batch) + " heads " +
                        std::to_string(heads) + " queries " + std::to_string(queries) + " keys " +
                        std::to_string(keys) + " dim " + std::to_string(dim) + " dropout " +
                        std::to_string(rate));
  const std::int64_t q_count = batch * queries * heads * dim, k_count = batch * keys * heads * dim;
  const Values q = random.values(dtype, q_count), k = random.values(dtype, k_count);
  const Values v = random.values(dtype, k_count), d_o = random.values(dtype, q_count);
  const Values o(dtype, q_count), lse(DType::kFloat32, batch * heads * queries);
  const Values dq(dtype, q_count), dk(dtype, k_count), dv(dtype, k_count);

  AttentionForward forward;
  forward.q = q.buffer(), forward.k = k.buffer(), forward.v = v.buffer(), forward.o = o.buffer();
  forward.log_sum_exp = lse.buffer();
  forward.batch = batch, forward.heads = heads, forward.queries = queries, forward.keys = keys;
  forward.head_dim = dim, forward.scale = scale, forward.dropout_rate = rate, forward.key = key;
  check_same_on_any_threads([&] { kernels.run(forward); }, {&o, &lse});

  AttentionBackward backward;
  backward.q = q.buffer(), backward.k = k.buffer(), backward.v = v.buffer(), backward.o = o.buffer();
  backward.log_sum_exp = lse.buffer(), backward.d_o = d_o.buffer();
  backward.dq = dq.buffer(), backward.dk = dk.buffer(), backward.dv = dv.buffer();
  backward.batch = batch, backward.heads = heads, backward.queries = queries, backward.keys = keys;
  backward.head_dim = dim, backward.scale = scale, backward.dropout_rate = rate, backward.key = key;
  check_same_on_any_threads([&] { kernels.run(backward); }, {&dq, &dk, &dv});

  Doubles wanted_o(at(q_count)), wanted_lse, wanted_dq(at(q_count)), wanted_dk(at(k_count)),
      wanted_dv(at(k_count));
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t i = 0; i < queries; ++i) {
        const std::int64_t q_row = ((b * queries + i) * heads + h) * dim;
        const auto k_row = [&](std::int64_t j) { return ((b * keys + j) * heads + h) * dim; };
        Doubles p(at(keys)), factor(at(keys), 1), dp(at(keys));
        double most = -HUGE_VAL, sum = 0;
        for (std::int64_t j = 0; j < keys; ++j) {
          for (std::int64_t d = 0; d < dim; ++d) p[at(j)] += scale * q[q_row + d] * k[k_row(j) + d];
          most = std::fmax(most, p[at(j)]);
        }
        for (double& score : p) sum += (score = std::exp(score - most));
        wanted_lse.push_back(most + std::log(sum));
        double row_dot = 0;
        for (std::int64_t j = 0; j < keys; ++j) {
          p[at(j)] /= sum;
          const std::int64_t index = ((b * heads + h) * queries + i) * keys + j;
          const std::uint32_t word = philox(key, static_cast<std::uint64_t>(index / 4)).word[index % 4];
          if (rate > 0) factor[at(j)] = (word >> 8) * 0x1p-24 < rate ? 0 : 1 / (1 - rate);
          for (std::int64_t d = 0; d < dim; ++d) {
            wanted_o[at(q_row + d)] += p[at(j)] * factor[at(j)] * v[k_row(j) + d];
            dp[at(j)] += factor[at(j)] * d_o[q_row + d] * v[k_row(j) + d];
            wanted_dv[at(k_row(j) + d)] += p[at(j)] * factor[at(j)] * d_o[q_row + d];
          }
          row_dot += p[at(j)] * dp[at(j)];
        }
        for (std::int64_t j = 0; j < keys; ++j) {
          const double ds = scale * p[at(j)] * (dp[at(j)] - row_dot);
          for (std::int64_t d = 0; d < dim; ++d) {
            wanted_dq[at(q_row + d)] += ds * k[k_row(j) + d];
            wanted_dk[at(k_row(j) + d)] += ds * q[q_row + d];
          }
        }
      }
    }
  }
  const double tolerance = dtype == DType::kBFloat16 ? 2e-2 : 2e-5;
  CHECK_CLOSE(o, wanted_o, tolerance);
  CHECK_CLOSE(lse, wanted_lse, tolerance);
  CHECK_CLOSE(dv, wanted_dv, tolerance);
  // One key: its probability is constant, and so these gradients are rounding errors around zero.
  if (keys > 1) {
    CHECK_CLOSE(dq, wanted_dq, tolerance);
    CHECK_CLOSE(dk, wanted_dk, tolerance);
  }

  if (rate == 0) {
    const std::int64_t b = random.integer(0, batch - 1), q_size = q_count / batch, k_size = k_count / batch;
    const Values alone(dtype, q_size);
    AttentionForward single = forward;
    single.batch = 1;
    single.q = part(q, b * q_size), single.k = part(k, b * k_size), single.v = part(v, b * k_size);
    single.o = alone.buffer();
    single.log_sum_exp = Buffer{};
    kernels.run(single);
    CHECK(std::memcmp(alone.buffer().data, part(o, b * q_size).data, at(q_size) * size_of(dtype)) == 0);
  }
}

TEST(attention_agrees_with_loops) {
  for_each_instruction_set([](Kernels& kernels) {
    for_random_cases(40, [&](Random& random) {
      const std::int64_t queries = random.choose<std::int64_t>({1, 2, 7, 14, 15, 33, 49, 130});
      check_attention(kernels, random, queries, random.choose<std::int64_t>({queries, 1, 17, 50}));
    });
  });
}

TEST(attention_over_many_keys_takes_several_blocks) {
  for_each_instruction_set([](Kernels& kernels) {
    for_random_cases(2, [&](Random& random) { check_attention(kernels, random, 60, 2000); });
  });
}

}  // namespace
}  // namespace softmoe::testing
