// Times every operation of a Soft MoE layer on a CUDA device at the papers' shapes and prints, for each, the
// time, the bytes that must move at least, the FLOPs, and their shares of the peaks given on the command
// line:
//   softmoe_cuda_bench [--cublas-lt] [--smoke] [GB/s of memory] [TFLOP/s of bfloat16 tensor cores]
// One line an operation, tab-separated. `--cublas-lt` times cuBLASLt's product at the experts' shapes instead
// (exit code 77 where it is not installed). `--smoke` takes a small shape and one repetition (emulated
// driver).
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "core/tensor.h"
#include "cublas_lt.h"
#include "cuda/cuda_device.h"

namespace {

using namespace softmoe;

struct Model {
  const char* name;
  std::int64_t tokens, dim, hidden, experts, slots_per_expert;
};
// Puigcerver et al., "From Sparse to Soft Mixtures of Experts": S/16, B/16, L/16 and H/14 at 224 pixels.
constexpr Model kModels[] = {
    {"S/16 128x1", 196, 384, 1536, 128, 1},  {"B/16 128x1", 196, 768, 3072, 128, 1},
    {"L/16 128x1", 196, 1024, 4096, 128, 1}, {"H/14 128x1", 256, 1280, 5120, 128, 1},
    {"S/16 16x13", 196, 384, 1536, 16, 13},  {"L/16 16x13", 196, 1024, 4096, 16, 13}};
constexpr Model kSmoke = {"smoke", 49, 64, 128, 4, 3};

class Bench {
 public:
  Bench(std::shared_ptr<Device> device, int repetitions, double gigabytes, double teraflops)
      : device_(std::move(device)), repetitions_(repetitions), gigabytes_(gigabytes), teraflops_(teraflops) {}

  void run(const Model& model, std::int64_t batch) {
    const std::int64_t slots = model.experts * model.slots_per_expert, rows = batch * model.tokens;
    const std::int64_t slot_rows = batch * slots, dim = model.dim, hidden = model.hidden;
    const DType half = DType::kBFloat16, single = DType::kFloat32;
    const Tensor x = random({rows, dim}, half), phi = random({dim, slots}, single),
                 scale = random({1}, single);
    const Tensor token_norm = random({rows}, single), slot_norm = random({slots}, single);
    const Tensor logits = random({rows, slots}, single), y = random({rows, dim}, half);
    const Tensor dispatch_lse = random({batch, slots}, single), combine_lse = random({rows}, single);
    const Tensor xs = random({slot_rows, dim}, half), ys = random({slot_rows, dim}, half);
    const Tensor w1 = random({model.experts, dim, hidden}, half),
                 b1 = random({model.experts, hidden}, single);
    const Tensor w2 = random({model.experts, hidden, dim}, half), b2 = random({model.experts, dim}, single);
    const Tensor pre = random({slot_rows, hidden}, half), dxs = random({slot_rows, dim}, half);
    const Tensor dlogits = random({rows, slots}, single);
    const double product = 2.0 * static_cast<double>(rows) * static_cast<double>(slots * dim);
    const double mlp = 4.0 * static_cast<double>(slot_rows) * static_cast<double>(dim * hidden);
    std::printf("# %s, batch %lld\n", model.name, static_cast<long long>(batch));

    SoftLogitsForward soft;
    soft.routing.shape = {batch, model.tokens, dim, model.experts, model.slots_per_expert};
    soft.routing.logits = logits.buffer(), soft.routing.dispatch_lse = dispatch_lse.buffer();
    soft.routing.combine_lse = combine_lse.buffer();
    soft.x = x.buffer(), soft.phi = phi.buffer(), soft.scale = scale.buffer();
    soft.token_norm = token_norm.buffer(), soft.slot_norm = slot_norm.buffer();
    time("logits", soft, product, {&x, &phi, &logits});
    TokensToSlots dispatch;
    dispatch.routing = soft.routing, dispatch.x = x.buffer(), dispatch.slots = xs.buffer();
    time("dispatch", dispatch, product, {&logits, &x, &xs});
    ExpertsForward forward;
    forward.rows.num_experts = model.experts;
    forward.rows.rows_per_expert = batch * model.slots_per_expert;
    forward.rows.max_rows = slot_rows;
    forward.x = xs.buffer(), forward.w1 = w1.buffer(), forward.b1 = b1.buffer(), forward.w2 = w2.buffer();
    forward.b2 = b2.buffer(), forward.y = ys.buffer();
    forward.dim = dim, forward.hidden = hidden, forward.out = dim;
    time("experts (inference)", forward, mlp, {&w1, &w2, &xs, &ys});
    forward.pre = pre.buffer();
    time("experts (training)", forward, mlp, {&w1, &w2, &xs, &ys, &pre});
    SlotsToTokens combine;
    combine.routing = soft.routing, combine.slots = ys.buffer(), combine.y = y.buffer();
    time("combine", combine, product, {&logits, &ys, &y});
    SoftLogitsGradient gradient;
    gradient.routing = soft.routing, gradient.x = x.buffer(), gradient.slots_in = xs.buffer();
    gradient.dslots_in = dxs.buffer(), gradient.dy = x.buffer(), gradient.y = y.buffer();
    gradient.slots_out = ys.buffer(), gradient.dlogits = dlogits.buffer();
    time("logits gradient", gradient, 2 * product, {&logits, &dlogits, &x, &x, &y, &xs, &dxs, &ys});
  }

  // The experts' first product by the library.
  void run_cublas_lt(bench::CublasLt& library, const Model& model, std::int64_t batch) {
    const std::int64_t rows = batch * model.slots_per_expert;
    const Tensor x = random({model.experts, rows, model.dim}, DType::kBFloat16);
    const Tensor w = random({model.experts, model.dim, model.hidden}, DType::kBFloat16);
    const Tensor y = random({model.experts, rows, model.hidden}, DType::kBFloat16);
    device_->synchronize();
    std::printf("# %s, batch %lld\n", model.name, static_cast<long long>(batch));
    const double seconds =
        1e-6 * library.time({model.experts, rows, model.dim, model.hidden, x.data(), w.data(), y.data()},
                            repetitions_);
    const double flops =
        2.0 * static_cast<double>(model.experts * rows) * static_cast<double>(model.dim * model.hidden);
    print("cuBLASLt up", seconds, static_cast<double>(x.bytes() + w.bytes() + y.bytes()), flops);
  }

 private:
  Tensor random(const Shape& shape, DType dtype) {
    const Tensor tensor = Tensor::empty(device_, shape, dtype);
    RandomFill fill;
    fill.y = tensor.buffer(), fill.count = tensor.count(), fill.distribution = Distribution::kNormal;
    fill.scale = 0.05, fill.key = {1, stream_++};
    device_->launch(fill);
    return tensor;
  }

  template <class Args>
  void time(const char* name, const Args& args, double flops, const std::vector<const Tensor*>& moved) {
    using Clock = std::chrono::steady_clock;
    double bytes = 0;
    for (const Tensor* tensor : moved) bytes += static_cast<double>(tensor->bytes());
    device_->launch(args);
    device_->synchronize();
    const Clock::time_point begin = Clock::now();
    for (int i = 0; i < repetitions_; ++i) device_->launch(args);
    device_->synchronize();
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count() / repetitions_;
    print(name, seconds, bytes, flops);
  }

  void print(const char* name, double seconds, double bytes, double flops) const {
    std::printf("%-20s\t%10.1f us\t%8.1f GB/s (%5.1f %%)\t%8.2f TFLOP/s (%5.1f %%)\n", name, seconds * 1e6,
                bytes / seconds / 1e9, 100 * bytes / seconds / 1e9 / gigabytes_, flops / seconds / 1e12,
                100 * flops / seconds / 1e12 / teraflops_);
    std::fflush(stdout);
  }

  std::shared_ptr<Device> device_;
  int repetitions_;
  double gigabytes_, teraflops_;
  std::uint64_t stream_ = 0;
};

}  // namespace

int main(int count, char** words) {
  int next = 1;
  const auto given = [&](const char* option) {
    const bool is = count > next && std::strcmp(words[next], option) == 0;
    next += is ? 1 : 0;
    return is;
  };
  const bool compares = given("--cublas-lt"), smoke = given("--smoke");
  const double gigabytes = count > next ? std::atof(words[next]) : 3350;         // H100 SXM, data sheet
  const double teraflops = count > next + 1 ? std::atof(words[next + 1]) : 989;  // the same, dense
  try {
    const auto device = cuda::CudaDevice::open(0);
    std::unique_ptr<bench::CublasLt> library;
    if (compares && !(library = bench::CublasLt::open())) {
      std::printf("there is no cuBLASLt here (libcublasLt.so.13 or .12)\n");
      return 77;
    }
    std::printf("# %s\n", device->description().c_str());
    Bench bench(device, smoke ? 1 : 50, gigabytes, teraflops);
    const auto run = [&](const Model& model, std::int64_t batch) {
      if (library) {
        bench.run_cublas_lt(*library, model, batch);
      } else {
        bench.run(model, batch);
      }
    };
    if (smoke) {
      run(kSmoke, 2);
    } else {
      for (const Model& model : kModels) {
        for (const std::int64_t batch : {1, 64}) run(model, batch);
      }
    }
  } catch (const Error& error) {
    std::fprintf(stderr, "%s: %s\n", error.code().c_str(), error.what());
    return 1;
  }
  return 0;
}
