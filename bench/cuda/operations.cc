// Runs the operations of a vision transformer with Soft MoE layers on a CUDA device at the papers' shapes,
// for operation-times.mjs, which reads the kernels' times from what SOFTMOE_DEBUG=1 prints:
//   softmoe_cuda_bench [--smoke]
// stderr gets a line `operation`, the model, the operation, the bytes that must move at least and the FLOP,
// separated by tabs, before each operation, a line `repetition` before each of its runs, and after it the
// lines of its kernels. Where cuBLASLt is installed a line `library`, the product and its microseconds
// follows the experts' products. `--smoke` takes a small shape and one repetition after the first (emulated
// driver).
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "cublas_lt.h"
#include "cuda/cuda_device.h"

namespace {

using namespace softmoe;

struct Model {
  const char* name;
  std::int64_t tokens, dim, hidden, heads, experts, slots_per_expert;
};
// Puigcerver et al., "From Sparse to Soft Mixtures of Experts": S/16, B/16, L/16 and H/14 at 224 pixels.
constexpr Model kModels[] = {
    {"S/16 128x1", 196, 384, 1536, 6, 128, 1},   {"B/16 128x1", 196, 768, 3072, 12, 128, 1},
    {"L/16 128x1", 196, 1024, 4096, 16, 128, 1}, {"H/14 128x1", 256, 1280, 5120, 16, 128, 1},
    {"S/16 16x13", 196, 384, 1536, 6, 16, 13},   {"L/16 16x13", 196, 1024, 4096, 16, 16, 13}};
constexpr Model kSmoke = {"smoke", 64, 64, 128, 2, 4, 3};

constexpr DType kHalf = DType::kBFloat16, kSingle = DType::kFloat32;

class Bench {
 public:
  Bench(std::shared_ptr<Device> device, bench::CublasLt* library, int repetitions)
      : device_(std::move(device)), library_(library), repetitions_(repetitions) {}

  void run(const Model& model, std::int64_t batch) {
    heading_ = std::string(model.name) + ", batch " + std::to_string(batch);
    run_soft_moe(model, batch);
    run_attention(model, batch);
    run_dense(model, batch);
  }

 private:
  void run_soft_moe(const Model& model, std::int64_t batch) {
    const std::int64_t slots = model.experts * model.slots_per_expert, rows = batch * model.tokens;
    const std::int64_t slot_rows = batch * slots, dim = model.dim;
    const Tensor x = random({rows, dim}, kHalf), y = random({rows, dim}, kHalf),
                 dy = random({rows, dim}, kHalf);
    const Tensor phi = random({dim, slots}, kSingle), scale = random({1}, kSingle);
    const Tensor token_norm = random({rows}, kSingle), slot_norm = random({slots}, kSingle);
    const Tensor logits = random({rows, slots}, kSingle), dlogits = random({rows, slots}, kSingle);
    const Tensor dispatch_lse = random({batch, slots}, kSingle), combine_lse = random({rows}, kSingle);
    const Tensor xs = random({slot_rows, dim}, kHalf), ys = random({slot_rows, dim}, kHalf);
    const Tensor dxs = random({slot_rows, dim}, kHalf), dys = random({slot_rows, dim}, kHalf);
    const Tensor dphi = random({dim, slots}, kSingle), dscale = random({1}, kSingle);
    const double product = 2.0 * static_cast<double>(rows) * static_cast<double>(slots * dim);

    SoftLogitsForward soft;
    soft.routing.shape = {batch, model.tokens, dim, model.experts, model.slots_per_expert};
    soft.routing.logits = logits.buffer(), soft.routing.dispatch_lse = dispatch_lse.buffer();
    soft.routing.combine_lse = combine_lse.buffer();
    soft.x = x.buffer(), soft.phi = phi.buffer(), soft.scale = scale.buffer();
    soft.token_norm = token_norm.buffer(), soft.slot_norm = slot_norm.buffer();
    time("logits", soft, product, {&x, &phi, &logits});
    TokensToSlots to_slots;
    to_slots.routing = soft.routing, to_slots.x = x.buffer(), to_slots.slots = xs.buffer();
    time("dispatch", to_slots, product, {&logits, &x, &xs});
    run_experts(model, batch, xs, ys, dxs, dys);
    SlotsToTokens to_tokens;
    to_tokens.routing = soft.routing, to_tokens.slots = ys.buffer(), to_tokens.y = y.buffer();
    time("combine", to_tokens, product, {&logits, &ys, &y});

    to_slots.side = RoutingSide::kCombine, to_slots.x = dy.buffer(), to_slots.slots = dys.buffer();
    time("gradient of combine", to_slots, product, {&logits, &dy, &dys});
    to_tokens.side = RoutingSide::kDispatch, to_tokens.slots = dxs.buffer();
    time("gradient of dispatch", to_tokens, product, {&logits, &dxs, &y});
    SoftLogitsGradient gradient;
    gradient.routing = soft.routing, gradient.x = x.buffer(), gradient.slots_in = xs.buffer();
    gradient.dslots_in = dxs.buffer(), gradient.dy = dy.buffer(), gradient.y = y.buffer();
    gradient.slots_out = ys.buffer(), gradient.dlogits = dlogits.buffer();
    time("gradient of the logits", gradient, 2 * product, {&logits, &dlogits, &x, &dy, &y, &xs, &dxs, &ys});
    SoftLogitsBackward backward;
    backward.shape = soft.routing.shape, backward.x = x.buffer(), backward.phi = phi.buffer();
    backward.scale = scale.buffer(), backward.token_norm = token_norm.buffer();
    backward.slot_norm = slot_norm.buffer(), backward.dlogits = dlogits.buffer(), backward.dx = y.buffer();
    backward.dphi = dphi.buffer(), backward.dscale = dscale.buffer();
    time("gradient of the router", backward, 2 * product, {&dlogits, &x, &phi, &y, &dphi});
  }

  void run_experts(const Model& model, std::int64_t batch, const Tensor& x, const Tensor& y, const Tensor& dx,
                   const Tensor& dy) {
    const std::int64_t rows = batch * model.slots_per_expert, experts = model.experts;
    const std::int64_t dim = model.dim, hidden = model.hidden;
    const Tensor w1 = random({experts, dim, hidden}, kHalf), b1 = random({experts, hidden}, kSingle);
    const Tensor w2 = random({experts, hidden, dim}, kHalf), b2 = random({experts, dim}, kSingle);
    const Tensor pre = random({experts * rows, hidden}, kHalf);
    const double mlp = 4.0 * static_cast<double>(experts * rows) * static_cast<double>(dim * hidden);
    ExpertsForward forward;
    forward.rows.num_experts = experts, forward.rows.rows_per_expert = rows;
    forward.rows.max_rows = experts * rows;
    forward.x = x.buffer(), forward.w1 = w1.buffer(), forward.b1 = b1.buffer();
    forward.w2 = w2.buffer(), forward.b2 = b2.buffer(), forward.y = y.buffer();
    forward.dim = dim, forward.hidden = hidden, forward.out = dim;
    time("experts", forward, mlp, {&w1, &w2, &x, &y});
    time_library(experts, rows, dim, hidden, x, w1, pre);
    time_library(experts, rows, hidden, dim, pre, w2, y);
    forward.pre = pre.buffer();
    time("experts for training", forward, mlp, {&w1, &w2, &x, &y, &pre});
    const Tensor dw1 = random({experts, dim, hidden}, kSingle), db1 = random({experts, hidden}, kSingle);
    const Tensor dw2 = random({experts, hidden, dim}, kSingle), db2 = random({experts, dim}, kSingle);
    ExpertsBackward backward;
    backward.rows = forward.rows, backward.x = x.buffer(), backward.w1 = w1.buffer();
    backward.w2 = w2.buffer(), backward.pre = pre.buffer(), backward.dy = dy.buffer();
    backward.dx = dx.buffer(), backward.dw1 = dw1.buffer(), backward.db1 = db1.buffer();
    backward.dw2 = dw2.buffer(), backward.db2 = db2.buffer();
    backward.dim = dim, backward.hidden = hidden, backward.out = dim;
    time("gradient of the experts", backward, 2 * mlp, {&w1, &w2, &x, &pre, &dy, &dx, &dw1, &dw2});
  }

  void run_attention(const Model& model, std::int64_t batch) {
    const std::int64_t head_dim = model.dim / model.heads;
    const Shape shape{batch, model.tokens, model.heads, head_dim};
    const Tensor q = random(shape, kHalf), k = random(shape, kHalf), v = random(shape, kHalf);
    const Tensor o = random(shape, kHalf), d_o = random(shape, kHalf);
    const Tensor dq = random(shape, kHalf), dk = random(shape, kHalf), dv = random(shape, kHalf);
    const Tensor log_sum_exp = random({batch, model.heads, model.tokens}, kSingle);
    const auto set = [&](auto& args) {
      args.q = q.buffer(), args.k = k.buffer(), args.v = v.buffer(), args.o = o.buffer();
      args.log_sum_exp = log_sum_exp.buffer();
      args.batch = batch, args.heads = model.heads, args.queries = args.keys = model.tokens;
      args.head_dim = head_dim, args.scale = 0.125;
    };
    const double scores =
        2.0 * static_cast<double>(batch * model.tokens) * static_cast<double>(model.tokens * model.dim);
    AttentionForward forward;
    set(forward);
    time("attention", forward, 2 * scores, {&q, &k, &v, &o});
    AttentionBackward backward;
    set(backward);
    backward.d_o = d_o.buffer(), backward.dq = dq.buffer();
    backward.dk = dk.buffer(), backward.dv = dv.buffer();
    time("gradient of attention", backward, 5 * scores, {&q, &k, &v, &o, &d_o, &dq, &dk, &dv});
  }

  // A projection of attention, the normalisation before it, and the optimizer on as many elements as its
  // weight has.
  void run_dense(const Model& model, std::int64_t batch) {
    const std::int64_t rows = batch * model.tokens, dim = model.dim;
    const Tensor x = random({rows, dim}, kHalf), y = random({rows, dim}, kHalf),
                 dx = random({rows, dim}, kHalf);
    const Tensor w = random({dim, dim}, kHalf), bias = random({dim}, kSingle), dbias = random({dim}, kSingle);
    const Tensor dw = random({dim, dim}, kSingle), scale = random({dim}, kSingle);
    const Tensor mean = random({rows}, kSingle), rstd = random({rows}, kSingle);
    const double product = 2.0 * static_cast<double>(rows) * static_cast<double>(dim * dim);
    LinearForward linear;
    linear.x = x.buffer(), linear.w = w.buffer(), linear.bias = bias.buffer(), linear.y = y.buffer();
    linear.rows = rows, linear.in = linear.out = dim;
    time("linear", linear, product, {&x, &w, &y});
    time_library(1, rows, dim, dim, x, w, y);
    LinearBackwardInput input;
    input.dy = x.buffer(), input.w = w.buffer(), input.dx = y.buffer();
    input.rows = rows, input.in = input.out = dim;
    time("gradient of linear's input", input, product, {&x, &w, &y});
    LinearBackwardWeight weight;
    weight.x = x.buffer(), weight.dy = y.buffer(), weight.dw = dw.buffer(), weight.dbias = dbias.buffer();
    weight.rows = rows, weight.in = weight.out = dim;
    time("gradient of linear's weight", weight, product, {&x, &y, &dw});
    LayerNormForward norm;
    norm.x = x.buffer(), norm.scale = scale.buffer(), norm.bias = bias.buffer(), norm.y = y.buffer();
    norm.mean = mean.buffer(), norm.rstd = rstd.buffer(), norm.rows = rows, norm.dim = dim;
    time("layer norm", norm, 0, {&x, &y});
    LayerNormBackward backward;
    backward.x = x.buffer(), backward.scale = scale.buffer(), backward.mean = mean.buffer();
    backward.rstd = rstd.buffer(), backward.dy = y.buffer(), backward.dx = dx.buffer();
    backward.dscale = dbias.buffer(), backward.dbias = bias.buffer();
    backward.rows = rows, backward.dim = dim;
    time("gradient of layer norm", backward, 0, {&x, &y, &dx});
    const Tensor master = random({dim, dim}, kSingle), first = random({dim, dim}, kSingle);
    const Tensor second = random({dim, dim}, kSingle);
    AdamWStep step;
    step.tensors = {{master.buffer().as<float>(), dw.buffer().as<float>(), first.buffer().as<float>(),
                     second.buffer().as<float>(), w.data(), dim * dim, 1e-3, 0.1}};
    time("AdamW", step, 0, {&master, &master, &dw, &first, &first, &second, &second, &w});
  }

  Tensor random(const Shape& shape, DType dtype) {
    const Tensor tensor = Tensor::empty(device_, shape, dtype);
    RandomFill fill;
    fill.y = tensor.buffer(), fill.count = tensor.count(), fill.distribution = Distribution::kNormal;
    fill.scale = 0.05, fill.key = {1, stream_++};
    device_->launch(fill);
    return tensor;
  }

  template <class Args>
  void time(const char* name, const Args& args, double flop, const std::vector<const Tensor*>& moved) {
    double bytes = 0;
    for (const Tensor* tensor : moved) bytes += static_cast<double>(tensor->bytes());
    device_->synchronize();
    std::fprintf(stderr, "operation\t%s\t%s\t%.0f\t%.0f\n", heading_.c_str(), name, bytes, flop);
    for (int i = 0; i <= repetitions_; ++i) {
      std::fprintf(stderr, "repetition\n");
      device_->launch(args);
      device_->synchronize();
    }
    std::fprintf(stderr, "done\n");
  }

  void time_library(std::int64_t batches, std::int64_t rows, std::int64_t depth, std::int64_t columns,
                    const Tensor& a, const Tensor& b, const Tensor& c) {
    if (!library_) return;
    device_->synchronize();
    const double microseconds =
        library_->time({batches, rows, depth, columns, a.data(), b.data(), c.data()}, repetitions_);
    std::fprintf(stderr, "library\tcuBLASLt %lld x [%lld, %lld] [%lld, %lld]\t%.3f\n",
                 static_cast<long long>(batches), static_cast<long long>(rows), static_cast<long long>(depth),
                 static_cast<long long>(depth), static_cast<long long>(columns), microseconds);
  }

  std::shared_ptr<Device> device_;
  bench::CublasLt* library_;
  int repetitions_;
  std::string heading_;
  std::uint64_t stream_ = 0;
};

}  // namespace

int main(int count, char** words) {
  const bool smoke = count > 1 && std::strcmp(words[1], "--smoke") == 0;
  ::setenv("SOFTMOE_DEBUG", "1", 1);
  try {
    const auto device = cuda::CudaDevice::open(0);
    const std::string description = device->description();
    std::fprintf(stderr, "device\t%s\n", description.c_str());
    // The library brings a driver of its own, which knows nothing of the emulated one's memory.
    const bool emulated = description.find("Emulated") != std::string::npos;
    const auto library = emulated ? nullptr : bench::CublasLt::open();
    if (!library) {
      std::fprintf(stderr, "note\tcuBLASLt: %s\n",
                   emulated ? "left out, it does not run on the emulated driver"
                            : "not installed (libcublasLt.so.13 or .12), its products are left out");
    }
    Bench bench(device, library.get(), smoke ? 1 : 20);
    if (smoke) bench.run(kSmoke, 2);
    if (smoke) return 0;
    for (const Model& model : kModels) {
      for (const std::int64_t batch : {1, 64}) bench.run(model, batch);
    }
  } catch (const Error& error) {
    std::fprintf(stderr, "%s: %s\n", error.code().c_str(), error.what());
    return 1;
  }
  return 0;
}
