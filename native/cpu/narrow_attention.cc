// The formulas of kernels/attention.cc, one query at a time:
//   forward   p = softmax(scale q k^T), o = p v
//   backward  dp = do v^T, ds = scale p (dp - p . dp), dq = ds k, dk += ds^T q, dv += p^T do
// with dropout factors on p where they apply. The backward makes p anew instead of trusting a rounded
// log-sum-exp.
#include "cpu/narrow_attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/philox.h"

namespace softmoe::cpu {

namespace {

template <class Args>
class Head {
 public:
  Head(const Args& args, std::int64_t head)
      : args_(args), head_(head), weights_(args.keys), kept_(args.keys) {}

  std::int64_t stride() const { return args_.heads * args_.head_dim; }
  std::int64_t at(std::int64_t row, std::int64_t rows) const {
    return (head_ / args_.heads * rows + row) * stride() + head_ % args_.heads * args_.head_dim;
  }
  double dot(const float* a, const float* b) const {
    double sum = 0;
    for (std::int64_t c = 0; c < args_.head_dim; ++c) sum += static_cast<double>(a[c]) * b[c];
    return sum;
  }

  // Fills weights() with the probabilities of a query and kept() with their dropout factors; returns the
  // log-sum-exp of its scores.
  double attend(std::int64_t query) {
    const float* q = args_.q.template as<const float>() + at(query, args_.queries);
    const float* k = args_.k.template as<const float>();
    double maximum = -HUGE_VAL, sum = 0;
    for (std::int64_t j = 0; j < args_.keys; ++j) {
      weights_[j] = args_.scale * dot(q, k + at(j, args_.keys));
      maximum = std::max(maximum, weights_[j]);
    }
    for (double& weight : weights_) sum += weight = std::exp(weight - maximum);
    for (double& weight : weights_) weight /= sum;
    for (std::int64_t j = 0; j < args_.keys; ++j) kept_[j] = factor(query, j);
    return maximum + std::log(sum);
  }
  const std::vector<double>& weights() const { return weights_; }
  const std::vector<double>& kept() const { return kept_; }

 private:
  double factor(std::int64_t query, std::int64_t key) const {
    if (args_.dropout_rate == 0) return 1;
    const std::int64_t index = (head_ * args_.queries + query) * args_.keys + key;
    const PhiloxBlock block = philox(args_.key, static_cast<std::uint64_t>(index / 4));
    const float uniform = uniform_from_word(block.word[index % 4]);
    return uniform < static_cast<float>(args_.dropout_rate) ? 0 : 1 / (1 - args_.dropout_rate);
  }

  const Args& args_;
  std::int64_t head_;
  std::vector<double> weights_, kept_;
};

}  // namespace

void narrow_attention(const AttentionForward& args, ThreadPool& pool) {
  pool.parallel_for(args.batch * args.heads, 1, [&](std::int64_t first, std::int64_t last, int) {
    std::vector<double> sums(args.head_dim);
    for (std::int64_t index = first; index < last; ++index) {
      Head head(args, index);
      for (std::int64_t query = 0; query < args.queries; ++query) {
        const double log_sum_exp = head.attend(query);
        std::fill(sums.begin(), sums.end(), 0);
        for (std::int64_t j = 0; j < args.keys; ++j) {
          const float* v = args.v.as<const float>() + head.at(j, args.keys);
          const double weight = head.weights()[j] * head.kept()[j];
          for (std::int64_t c = 0; c < args.head_dim; ++c) sums[c] += weight * v[c];
        }
        float* o = args.o.as<float>() + head.at(query, args.queries);
        for (std::int64_t c = 0; c < args.head_dim; ++c) o[c] = static_cast<float>(sums[c]);
        if (args.log_sum_exp) {
          args.log_sum_exp.as<float>()[index * args.queries + query] = static_cast<float>(log_sum_exp);
        }
      }
    }
  });
}

void narrow_attention(const AttentionBackward& args, ThreadPool& pool) {
  const std::int64_t dim = args.head_dim;
  pool.parallel_for(args.batch * args.heads, 1, [&](std::int64_t first, std::int64_t last, int) {
    std::vector<double> dq(dim), dweights(args.keys), dk(args.keys * dim), dv(args.keys * dim);
    for (std::int64_t index = first; index < last; ++index) {
      Head head(args, index);
      std::fill(dk.begin(), dk.end(), 0);
      std::fill(dv.begin(), dv.end(), 0);
      for (std::int64_t query = 0; query < args.queries; ++query) {
        head.attend(query);
        const std::vector<double>&p = head.weights(), &kept = head.kept();
        const std::int64_t at = head.at(query, args.queries);
        const float *q = args.q.as<const float>() + at, *d_o = args.d_o.as<const float>() + at;
        double inner = 0;
        for (std::int64_t j = 0; j < args.keys; ++j) {
          const float* v = args.v.as<const float>() + head.at(j, args.keys);
          dweights[j] = kept[j] * head.dot(d_o, v);
          inner += p[j] * dweights[j];
        }
        std::fill(dq.begin(), dq.end(), 0);
        for (std::int64_t j = 0; j < args.keys; ++j) {
          const float* k = args.k.as<const float>() + head.at(j, args.keys);
          const double ds = args.scale * p[j] * (dweights[j] - inner);
          for (std::int64_t c = 0; c < dim; ++c) {
            dq[c] += ds * k[c];
            dk[j * dim + c] += ds * q[c];
            dv[j * dim + c] += p[j] * kept[j] * d_o[c];
          }
        }
        for (std::int64_t c = 0; c < dim; ++c) args.dq.as<float>()[at + c] = static_cast<float>(dq[c]);
      }
      for (std::int64_t j = 0; j < args.keys; ++j) {
        for (std::int64_t c = 0; c < dim; ++c) {
          args.dk.as<float>()[head.at(j, args.keys) + c] = static_cast<float>(dk[j * dim + c]);
          args.dv.as<float>()[head.at(j, args.keys) + c] = static_cast<float>(dv[j * dim + c]);
        }
      }
    }
  });
}

}  // namespace softmoe::cpu
