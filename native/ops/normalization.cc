#include "ops/normalization.h"

#include "ops/check.h"

namespace softmoe::ops {

namespace {

std::int64_t row_count(const Tensor& x) { return x.shape().count_before(x.shape().rank() - 1); }

Tensor like(const Tensor& x) { return Tensor::empty(x.device(), x.shape(), x.dtype()); }

Tensor row_statistics(const Tensor& x) { return Tensor::empty(x.device(), {row_count(x)}, DType::kFloat32); }

void check_rows(const Check& check, const Tensor& x) {
  check.floating("x", x);
  check.min_rank("x", x, 1, "[..., dim]");
}

void check_vector(const Check& check, const char* name, const std::optional<Tensor>& tensor,
                  std::int64_t dim) {
  if (!tensor) return;
  check.shape(name, *tensor, {dim}, "[dim]");
  check.dtype(name, *tensor, DType::kFloat32);
}

}  // namespace

std::tuple<Tensor, std::optional<Tensor>, std::optional<Tensor>> layer_norm(
    const Tensor& x, const std::optional<Tensor>& scale, const std::optional<Tensor>& bias, double eps,
    bool save_statistics) {
  const Check check("layer_norm");
  check.same_device({&x, pointer(scale), pointer(bias)});
  check_rows(check, x);
  const std::int64_t dim = x.shape()[-1];
  check_vector(check, "scale", scale, dim);
  check_vector(check, "bias", bias, dim);
  check.that(eps >= 0, "eps is " + std::to_string(eps) + "; wanted 0 or more");
  check.finite("eps", eps);
  const Tensor y = like(x);
  std::optional<Tensor> mean, rstd;
  if (save_statistics) {
    mean = row_statistics(x);
    rstd = row_statistics(x);
  }
  LayerNormForward args;
  args.x = x.buffer();
  args.scale = buffer(scale);
  args.bias = buffer(bias);
  args.y = y.buffer();
  args.mean = buffer(mean);
  args.rstd = buffer(rstd);
  args.rows = row_count(x);
  args.dim = dim;
  args.eps = eps;
  x.device()->launch(args);
  return {y, mean, rstd};
}

std::tuple<Tensor, std::optional<Tensor>, std::optional<Tensor>> layer_norm_backward(
    const Tensor& x, const std::optional<Tensor>& scale, const Tensor& mean, const Tensor& rstd,
    const Tensor& dy, bool with_bias) {
  const Check check("layer_norm_backward");
  check.same_device({&x, pointer(scale), &mean, &rstd, &dy});
  check_rows(check, x);
  check.same_shape("dy", dy, "x", x);
  check.same_dtype("dy", dy, "x", x);
  const std::int64_t dim = x.shape()[-1];
  check_vector(check, "scale", scale, dim);
  check.shape("mean", mean, {row_count(x)}, "[rows]");
  check.shape("rstd", rstd, {row_count(x)}, "[rows]");
  check.dtype("mean", mean, DType::kFloat32);
  check.dtype("rstd", rstd, DType::kFloat32);
  const Tensor dx = like(x);
  std::optional<Tensor> dscale, dbias;
  if (scale) dscale = Tensor::empty(x.device(), {dim}, DType::kFloat32);
  if (with_bias) dbias = Tensor::empty(x.device(), {dim}, DType::kFloat32);
  LayerNormBackward args;
  args.x = x.buffer();
  args.scale = buffer(scale);
  args.mean = mean.buffer();
  args.rstd = rstd.buffer();
  args.dy = dy.buffer();
  args.dx = dx.buffer();
  args.dscale = buffer(dscale);
  args.dbias = buffer(dbias);
  args.rows = row_count(x);
  args.dim = dim;
  x.device()->launch(args);
  return {dx, dscale, dbias};
}

std::tuple<Tensor, Tensor> l2_normalize(const Tensor& x, double eps) {
  const Check check("l2_normalize");
  check_rows(check, x);
  check.that(eps > 0, "eps is " + std::to_string(eps) + "; wanted more than 0");
  check.finite("eps", eps);
  const Tensor y = like(x), inverse_norm = row_statistics(x);
  x.device()->launch(
      L2NormalizeForward{x.buffer(), y.buffer(), inverse_norm.buffer(), row_count(x), x.shape()[-1], eps});
  return {y, inverse_norm};
}

Tensor l2_normalize_backward(const Tensor& x, const Tensor& inverse_norm, const Tensor& dy) {
  const Check check("l2_normalize_backward");
  check.same_device({&x, &inverse_norm, &dy});
  check.same_shape("dy", dy, "x", x);
  check.same_dtype("dy", dy, "x", x);
  check_rows(check, x);
  check.shape("inverseNorm", inverse_norm, {row_count(x)}, "[rows]");
  check.dtype("inverseNorm", inverse_norm, DType::kFloat32);
  const Tensor dx = like(x);
  x.device()->launch(L2NormalizeBackward{x.buffer(), inverse_norm.buffer(), dy.buffer(), dx.buffer(),
                                         row_count(x), x.shape()[-1]});
  return dx;
}

Tensor softmax(const Tensor& x) {
  const Check check("softmax");
  check_rows(check, x);
  const Tensor y = like(x);
  x.device()->launch(SoftmaxForward{x.buffer(), y.buffer(), Buffer{}, row_count(x), x.shape()[-1]});
  return y;
}

Tensor softmax_backward(const Tensor& y, const Tensor& dy) {
  const Check check("softmax_backward");
  check.same_device({&y, &dy});
  check.same_shape("dy", dy, "y", y);
  check.same_dtype("dy", dy, "y", y);
  const Tensor dx = like(y);
  y.device()->launch(SoftmaxBackward{y.buffer(), dy.buffer(), dx.buffer(), row_count(y), y.shape()[-1]});
  return dx;
}

}  // namespace softmoe::ops
