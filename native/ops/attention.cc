#include "ops/attention.h"

#include <string>

#include "ops/check.h"

namespace softmoe::ops {

namespace {

constexpr std::int64_t kLargestCudaHead = 256;  // as in cuda/attention.cc

void check_operands(const Check& check, const Tensor& q, const Tensor& k, const Tensor& v, double scale,
                    double dropout_rate) {
  check.same_device({&q, &k, &v});
  check.floating("q", q);
  check.same_dtype("k", k, "q", q);
  check.same_dtype("v", v, "q", q);
  check.rank("q", q, 4, "[batch, queries, heads, headDim]");
  check.shape("k", k, {q.shape()[0], Check::kAny, q.shape()[2], q.shape()[3]},
              "[batch, keys, heads, headDim]");
  check.same_shape("v", v, "k", k);
  if (q.device()->kind() == "cuda" && q.shape()[3] > kLargestCudaHead) {
    check.that(false, "headDim is " + std::to_string(q.shape()[3]) +
                          "; the CUDA kernels take at most 256: use more heads, or the device 'cpu'");
  }
  check.finite("scale", scale);
  check.probability("dropoutRate", dropout_rate);
}

template <class Args>
void set_extents(Args& args, const Tensor& q, const Tensor& k, double scale, double dropout_rate,
                 const RandomKey& key) {
  args.batch = q.shape()[0];
  args.queries = q.shape()[1];
  args.heads = q.shape()[2];
  args.head_dim = q.shape()[3];
  args.keys = k.shape()[1];
  args.scale = scale;
  args.dropout_rate = dropout_rate;
  args.key = key;
}

}  // namespace

std::tuple<Tensor, std::optional<Tensor>> attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                                    double scale, double dropout_rate, const RandomKey& key,
                                                    bool save_statistics) {
  const Check check("attention");
  check_operands(check, q, k, v, scale, dropout_rate);
  const Tensor o = Tensor::empty(q.device(), q.shape(), q.dtype());
  std::optional<Tensor> log_sum_exp;
  if (save_statistics) {
    log_sum_exp = Tensor::empty(q.device(), {q.shape()[0], q.shape()[2], q.shape()[1]}, DType::kFloat32);
  }
  AttentionForward args;
  args.q = q.buffer();
  args.k = k.buffer();
  args.v = v.buffer();
  args.o = o.buffer();
  args.log_sum_exp = buffer(log_sum_exp);
  set_extents(args, q, k, scale, dropout_rate, key);
  q.device()->launch(args);
  return {o, log_sum_exp};
}

std::tuple<Tensor, Tensor, Tensor> attention_backward(const Tensor& q, const Tensor& k, const Tensor& v,
                                                      const Tensor& o, const Tensor& log_sum_exp,
                                                      const Tensor& d_o, double scale, double dropout_rate,
                                                      const RandomKey& key) {
  const Check check("attention_backward");
  check_operands(check, q, k, v, scale, dropout_rate);
  check.same_device({&q, &o, &log_sum_exp, &d_o});
  check.same_shape("o", o, "q", q);
  check.same_shape("do", d_o, "q", q);
  check.same_dtype("do", d_o, "q", q);
  check.same_dtype("o", o, "q", q);
  check.shape("logSumExp", log_sum_exp, {q.shape()[0], q.shape()[2], q.shape()[1]},
              "[batch, heads, queries]");
  check.dtype("logSumExp", log_sum_exp, DType::kFloat32);
  const Tensor dq = Tensor::empty(q.device(), q.shape(), q.dtype());
  const Tensor dk = Tensor::empty(q.device(), k.shape(), q.dtype());
  const Tensor dv = Tensor::empty(q.device(), k.shape(), q.dtype());
  AttentionBackward args;
  args.q = q.buffer();
  args.k = k.buffer();
  args.v = v.buffer();
  args.o = o.buffer();
  args.log_sum_exp = log_sum_exp.buffer();
  args.d_o = d_o.buffer();
  args.dq = dq.buffer();
  args.dk = dk.buffer();
  args.dv = dv.buffer();
  set_extents(args, q, k, scale, dropout_rate, key);
  q.device()->launch(args);
  return {dq, dk, dv};
}

}  // namespace softmoe::ops
