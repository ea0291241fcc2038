// Times the CPU kernels against what this machine can do: GFLOP/s beside the measured peak of register-only
// multiply-adds, GB/s beside the measured read bandwidth. Usage: softmoe_native_bench [ISA [THREADS [WORDS
// …]]]; only cases whose names contain one of the words run. With `probe` as the only word it measures limits
// on demand.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "core/kernels.h"
#include "cpu/isa_detect.h"
#include "cpu/memory_cache.h"
#include "machine_limits.h"
#include "timing.h"

namespace {

using namespace softmoe;

using bench::best_time;

class Bench {
 public:
  Bench(const std::string& isa, std::vector<std::string> words)
      : words_(std::move(words)), kernels_(cpu::make_kernels(isa, cpu::ThreadPool::instance(), scratch_)) {}

  Buffer fresh(DType dtype, std::int64_t count) {
    const auto bytes = static_cast<std::size_t>(count) * size_of(dtype);
    const auto floats = static_cast<std::int64_t>(bytes / 4);
    taken_.emplace_back(memory_.take(bytes), bytes);
    char* data = static_cast<char*>(taken_.back().first.data);
    std::uint32_t state = 12345;
    for (std::int64_t i = 0; i < floats; ++i) {
      state = state * 1664525 + 1013904223;
      const float value = static_cast<float>(state >> 8) * 0x1p-24f - 0.5f;
      std::memcpy(data + 4 * i, &value, 4);
    }
    if (dtype == DType::kBFloat16) {
      for (std::int64_t i = 0; i < count; ++i) {
        state = state * 1664525 + 1013904223;
        const std::uint16_t bits =
            static_cast<std::uint16_t>(0x3f00 | (state >> 31 << 15) | (state >> 8 & 0x7f));
        std::memcpy(data + 2 * i, &bits, 2);
      }
    }
    return {data, dtype};
  }

  template <class Args>
  void time(const std::string& name, const Args& args, double flops, double bytes) {
    const double time = best_time([&] { kernels_->run(args); });
    std::printf("%-44s %9.3f ms %8.1f GFLOP/s %7.1f GB/s\n", name.c_str(), time * 1e3, flops / time * 1e-9,
                bytes / time * 1e-9);
    std::fflush(stdout);
  }
  bool wants(const std::string& name) const {
    return words_.empty() || std::any_of(words_.begin(), words_.end(), [&](const std::string& word) {
             return name.find(word) != std::string::npos;
           });
  }
  void forget() {
    for (const auto& [block, bytes] : taken_) memory_.give_back(block, bytes);
    taken_.clear();
    memory_.trim(cpu::MemoryCache::kAnyUse);
  }

  void experts(const std::string& name, DType dtype, std::int64_t experts, std::int64_t rows,
               std::int64_t dim, std::int64_t hidden, bool backward) {
    const std::string full = name + " " + name_of(dtype) + (backward ? " backward" : "");
    if (!wants(full)) return;
    const double flops = 4.0 * static_cast<double>(experts * rows * dim * hidden);
    const double weights =
        2.0 * static_cast<double>(experts * dim * hidden) * static_cast<double>(size_of(dtype));
    ExpertsForward f;
    f.rows.num_experts = experts, f.rows.rows_per_expert = rows, f.rows.max_rows = experts * rows;
    f.x = fresh(dtype, experts * rows * dim), f.y = fresh(dtype, experts * rows * dim);
    f.w1 = fresh(dtype, experts * dim * hidden), f.w2 = fresh(dtype, experts * dim * hidden);
    f.b1 = fresh(DType::kFloat32, experts * hidden), f.b2 = fresh(DType::kFloat32, experts * dim);
    f.dim = dim, f.hidden = hidden, f.out = dim;
    if (!backward) {
      time(full, f, flops, weights);
    } else {
      ExpertsBackward b;
      b.rows = f.rows, b.x = f.x, b.w1 = f.w1, b.w2 = f.w2, b.dim = dim, b.hidden = hidden, b.out = dim;
      b.pre = fresh(dtype, experts * rows * hidden), b.dy = f.y, b.dx = fresh(dtype, experts * rows * dim);
      b.dw1 = fresh(DType::kFloat32, experts * dim * hidden),
      b.dw2 = fresh(DType::kFloat32, experts * dim * hidden);
      b.db1 = fresh(DType::kFloat32, experts * hidden), b.db2 = fresh(DType::kFloat32, experts * dim);
      time(full, b, 2 * flops, weights + 8.0 * static_cast<double>(experts * dim * hidden));
    }
    forget();
  }

  void matmul(const std::string& name, DType dtype, std::int64_t m, std::int64_t n, std::int64_t k, bool ta,
              bool tb) {
    const std::string full = name + (ta ? " ta" : "") + (tb ? " tb" : "") + " " + name_of(dtype);
    if (!wants(full)) return;
    MatMul p;
    p.batch = 1, p.m = m, p.n = n, p.k = k, p.transpose_a = ta, p.transpose_b = tb;
    p.a = fresh(dtype, m * k), p.b = fresh(dtype, k * n), p.y = fresh(dtype, m * n);
    time(full, p, 2.0 * static_cast<double>(m * n * k),
         static_cast<double>(m * k + k * n + m * n) * static_cast<double>(size_of(dtype)));
    forget();
  }

  void attention(const std::string& name, DType dtype, std::int64_t batch, std::int64_t heads,
                 std::int64_t tokens, std::int64_t dim, bool backward) {
    const std::string full = name + " " + name_of(dtype) + (backward ? " backward" : "");
    if (!wants(full)) return;
    const std::int64_t count = batch * heads * tokens * dim;
    const double flops = 4.0 * static_cast<double>(count * tokens);
    AttentionForward f;
    f.q = fresh(dtype, count), f.k = fresh(dtype, count), f.v = fresh(dtype, count),
    f.o = fresh(dtype, count);
    f.log_sum_exp = fresh(DType::kFloat32, batch * heads * tokens);
    f.batch = batch, f.heads = heads, f.queries = f.keys = tokens, f.head_dim = dim, f.scale = 0.125;
    if (!backward) {
      time(full, f, flops, 4.0 * static_cast<double>(count) * static_cast<double>(size_of(dtype)));
    } else {
      kernels_->run(f);
      AttentionBackward b;
      b.q = f.q, b.k = f.k, b.v = f.v, b.o = f.o, b.log_sum_exp = f.log_sum_exp, b.d_o = fresh(dtype, count);
      b.dq = fresh(dtype, count), b.dk = fresh(dtype, count), b.dv = fresh(dtype, count);
      b.batch = batch, b.heads = heads, b.queries = b.keys = tokens, b.head_dim = dim, b.scale = 0.125;
      time(full, b, 2.5 * flops, 8.0 * static_cast<double>(count) * static_cast<double>(size_of(dtype)));
    }
    forget();
  }

  void soft_routing(const std::string& name, DType dtype, std::int64_t batch, std::int64_t tokens,
                    std::int64_t dim, std::int64_t experts, std::int64_t slots_per_expert) {
    if (!wants(name + " routing")) return;
    const std::string full = name + " routing " + name_of(dtype) + " ";
    SoftRouting r;
    r.shape = {batch, tokens, dim, experts, slots_per_expert};
    const std::int64_t slots = r.shape.slots();
    r.logits = fresh(DType::kFloat32, batch * tokens * slots);
    r.dispatch_lse = fresh(DType::kFloat32, batch * slots),
    r.combine_lse = fresh(DType::kFloat32, batch * tokens);
    SoftLogitsForward l;
    l.routing = r, l.x = fresh(dtype, batch * tokens * dim), l.phi = fresh(DType::kFloat32, dim * slots);
    l.scale = fresh(DType::kFloat32, 1);
    l.token_norm = fresh(DType::kFloat32, batch * tokens), l.slot_norm = fresh(DType::kFloat32, slots);
    const double flops = 2.0 * static_cast<double>(batch * tokens * slots * dim);
    time(full + "logits", l, flops, 0);
    TokensToSlots d;
    d.routing = r, d.x = l.x, d.slots = fresh(dtype, batch * slots * dim);
    time(full + "dispatch", d, flops, 0);
    SlotsToTokens c;
    c.routing = r, c.slots = d.slots, c.y = fresh(dtype, batch * tokens * dim);
    time(full + "combine", c, flops, 0);
    SoftLogitsGradient g;
    g.routing = r, g.x = l.x, g.slots_in = d.slots, g.dslots_in = d.slots, g.dy = c.y, g.y = c.y,
    g.slots_out = d.slots;
    g.dlogits = fresh(DType::kFloat32, batch * tokens * slots);
    time(full + "logits gradient", g, 2 * flops, 0);
    SoftLogitsBackward b;
    b.shape = r.shape, b.x = l.x, b.phi = l.phi, b.scale = l.scale, b.token_norm = l.token_norm;
    b.slot_norm = l.slot_norm, b.dlogits = g.dlogits, b.dx = fresh(dtype, batch * tokens * dim);
    b.dphi = fresh(DType::kFloat32, dim * slots), b.dscale = fresh(DType::kFloat32, 1);
    time(full + "logits backward", b, 2 * flops, 0);
    forget();
  }

 private:
  std::vector<std::string> words_;
  cpu::Scratch scratch_;
  std::unique_ptr<Kernels> kernels_;
  // As the device has it: large buffers lie on huge pages.
  cpu::MemoryCache memory_{SIZE_MAX};
  std::vector<std::pair<cpu::MemoryCache::Block, std::size_t>> taken_;
};

}  // namespace

int main(int argc, char** argv) {
  const std::string isa = argc > 1 ? argv[1] : cpu::available_instruction_sets().back();
  const int threads = argc > 2 ? std::atoi(argv[2]) : cpu::ThreadPool::instance().threads();
  cpu::ThreadPool::instance().set_threads(threads);
  if (argc == 4 && std::string(argv[3]) == "probe") {
    bench::serve_limits(threads);
    return 0;
  }
  std::printf("%s, %d threads\n", isa.c_str(), threads);
  Bench bench(isa, std::vector<std::string>(argv + std::min(argc, 3), argv + argc));
  if (bench.wants("limits")) bench::print_limits(threads);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    bench.matmul("matmul 2048", dtype, 2048, 2048, 2048, false, false);
    bench.matmul("matmul 2048", dtype, 2048, 2048, 2048, true, false);
    bench.matmul("matmul 2048", dtype, 2048, 2048, 2048, false, true);
    for (const bool backward : {false, true}) {
      bench.experts("mlp S/16 B=1", dtype, 1, 196, 384, 1536, backward);
      bench.experts("mlp S/16 B=8", dtype, 1, 8 * 196, 384, 1536, backward);
      bench.experts("mlp B/16 B=4", dtype, 1, 4 * 196, 768, 3072, backward);
      bench.experts("mlp L/16 B=2", dtype, 1, 2 * 196, 1024, 4096, backward);
      bench.experts("experts S/16 128x1 B=1", dtype, 128, 1, 384, 1536, backward);
      bench.experts("experts S/16 128x1 B=8", dtype, 128, 8, 384, 1536, backward);
      bench.experts("experts B/16 128x1 B=1", dtype, 128, 1, 768, 3072, backward);
      bench.experts("experts B/16 128x1 B=4", dtype, 128, 4, 768, 3072, backward);
      bench.experts("experts S/16 28x7 B=8", dtype, 28, 56, 384, 1536, backward);
      bench.experts("experts small 16x4 B=32", dtype, 16, 128, 192, 768, backward);
      bench.experts("experts 4096x1 B=8", dtype, 4096, 8, 128, 512, backward);
      bench.experts("experts 4096x1 B=1", dtype, 4096, 1, 64, 256, backward);
      bench.attention("attention S/16 B=8", dtype, 8, 6, 196, 64, backward);
      bench.attention("attention H/14 B=1", dtype, 1, 16, 784, 80, backward);
    }
    bench.soft_routing("S/16 128x1 B=8", dtype, 8, 196, 384, 128, 1);
    bench.soft_routing("B/16 128x1 B=4", dtype, 4, 196, 768, 128, 1);
    bench.soft_routing("S/16 128x1 B=1", dtype, 1, 196, 384, 128, 1);
    bench.soft_routing("small 16x4 B=32", dtype, 32, 64, 192, 16, 4);
    bench.soft_routing("S/16 4096x1 B=1", dtype, 1, 196, 384, 4096, 1);
  }
  return 0;
}
