// oneDNN: the expert products of a layer, y_e = gelu(x_e W1_e + b1_e) W2_e + b2_e, with weights packed
// beforehand in the layout that oneDNN chooses, and bias and GELU fused. One expert is the dense MLP, which
// all threads share; many experts are shared out among the threads. Routing is not part of it. Talks with the
// benchmark as worker.mjs describes. Works with oneDNN 2 and 3, built with OpenMP.
#include <fcntl.h>
#include <omp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include <oneapi/dnnl/dnnl.hpp>

namespace {

using dnnl::memory;
using dnnl::primitive_attr;
using Tag = memory::format_tag;

constexpr std::size_t kAlignment = 4096;

struct MappedFile {
  explicit MappedFile(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY);
    bytes = static_cast<std::size_t>(lseek(file, 0, SEEK_END));
    data = static_cast<float*>(mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, 0));
    close(file);
  }
  ~MappedFile() { munmap(data, bytes); }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::size_t bytes;
  float* data;
};

dnnl::matmul::primitive_desc describe(const dnnl::engine& engine, const memory::desc& a,
                                      const memory::desc& w, const memory::desc& bias, const memory::desc& y,
                                      const primitive_attr& attributes) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine, a, w, bias, y, attributes};
#else
  return {dnnl::matmul::desc(a, w, bias, y), attributes, engine};
#endif
}

primitive_attr with_user_scratchpad(bool gelu) {
  primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (gelu) {
    dnnl::post_ops operations;
#if DNNL_VERSION_MAJOR >= 3
    operations.append_eltwise(dnnl::algorithm::eltwise_gelu_tanh, 0, 0);
#else
    operations.append_eltwise(1, dnnl::algorithm::eltwise_gelu_tanh, 0, 0);
#endif
    attributes.set_post_ops(operations);
  }
  return attributes;
}

// One product of all experts: `rows` rows of width `in` to width `out`.
class Product {
 public:
  Product(const dnnl::engine& engine, dnnl::stream& stream, memory::data_type type, std::int64_t experts,
          std::int64_t rows, std::int64_t in, std::int64_t out, bool gelu, const float* weights,
          const float* bias, int threads)
      : engine_(engine),
        rows_(rows),
        in_(in),
        out_(out),
        type_(type),
        descriptor_(describe(engine, {{rows, in}, type, Tag::ab}, {{in, out}, type, Tag::any},
                             {{1, out}, memory::data_type::f32, Tag::ab}, {{rows, out}, type, Tag::ab},
                             with_user_scratchpad(gelu))),
        product_(descriptor_) {
    const memory::desc plain({in, out}, memory::data_type::f32, Tag::ab);
    for (std::int64_t e = 0; e < experts; ++e) {
      memory source(plain, engine, const_cast<float*>(weights + e * in * out));
      memory packed(descriptor_.weights_desc(), engine);
      dnnl::reorder(source, packed).execute(stream, source, packed);
      stream.wait();
      weights_.push_back(packed);
      memory own_bias({{1, out}, memory::data_type::f32, Tag::ab}, engine);
      std::copy_n(bias + e * out, out, static_cast<float*>(own_bias.get_data_handle()));
      bias_.push_back(own_bias);
    }
    for (int t = 0; t < threads; ++t) {
      scratch_.emplace_back(descriptor_.scratchpad_desc(), engine);
    }
  }

  // Runs expert `e` on the scratchpad of thread `t`.
  void run(dnnl::stream& stream, std::int64_t e, int t, char* x, char* y) {
    const auto bytes = static_cast<std::int64_t>(type_ == memory::data_type::f32 ? 4 : 2);
    memory source({{rows_, in_}, type_, Tag::ab}, engine_, x + e * rows_ * in_ * bytes);
    memory result({{rows_, out_}, type_, Tag::ab}, engine_, y + e * rows_ * out_ * bytes);
    product_.execute(stream, {{DNNL_ARG_SRC, source},
                              {DNNL_ARG_WEIGHTS, weights_[static_cast<std::size_t>(e)]},
                              {DNNL_ARG_BIAS, bias_[static_cast<std::size_t>(e)]},
                              {DNNL_ARG_SCRATCHPAD, scratch_[static_cast<std::size_t>(t)]},
                              {DNNL_ARG_DST, result}});
  }

 private:
  dnnl::engine engine_;
  std::int64_t rows_, in_, out_;
  memory::data_type type_;
  dnnl::matmul::primitive_desc descriptor_;
  dnnl::matmul product_;
  std::vector<memory> weights_, bias_, scratch_;
};

int work(std::map<std::string, std::string>& problem) {
  const auto number = [&](const char* name) { return std::stoll(problem[name]); };
  if (problem["pass"] != "forward") {
    std::puts("skip only forward is written for it");
    return 0;
  }
  const std::int64_t experts = number("experts"), dim = number("dim"), hidden = number("hidden");
  const bool soft = problem["kind"] == "soft";
  const std::int64_t rows = number("batch") * (soft ? number("slots") : number("tokens"));
  const int threads = static_cast<int>(number("threads"));
  const auto type = problem["dtype"] == "bfloat16" ? memory::data_type::bf16 : memory::data_type::f32;
  omp_set_num_threads(threads);
  omp_set_max_active_levels(1);

  dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const MappedFile weights(problem["weights"]), input(problem["input"]);
  const auto padded = [](std::int64_t count) {
    return (static_cast<std::size_t>(count) * 4 + kAlignment - 1) / kAlignment * kAlignment / 4;
  };
  const float* w1 = weights.data;
  const float* b1 = w1 + padded(experts * dim * hidden);
  const float* w2 = b1 + padded(experts * hidden);
  const float* b2 = w2 + padded(experts * dim * hidden);

  // A primitive takes as many threads as there are when it is made: one each where experts are shared out.
  const bool share_experts = experts > 1;
  std::vector<Product> products;
  const auto make = [&](std::int64_t in, std::int64_t out, bool gelu, const float* w, const float* b) {
    products.emplace_back(engine, stream, type, experts, rows, in, out, gelu, w, b, threads);
  };
  omp_set_num_threads(share_experts ? 1 : threads);
  make(dim, hidden, true, w1, b1);
  make(hidden, dim, false, w2, b2);
  omp_set_num_threads(threads);

  memory x({{experts * rows, dim}, type, Tag::ab}, engine);
  memory act({{experts * rows, hidden}, type, Tag::ab}, engine), y(x.get_desc(), engine);
  memory plain({{experts * rows, dim}, memory::data_type::f32, Tag::ab}, engine, input.data);
  dnnl::reorder(plain, x).execute(stream, plain, x);
  stream.wait();
  char* x_data = static_cast<char*>(x.get_data_handle());
  char* act_data = static_cast<char*>(act.get_data_handle());
  char* y_data = static_cast<char*>(y.get_data_handle());
  const auto run_expert = [&](dnnl::stream& own, std::int64_t e, int t) {
    products[0].run(own, e, t, x_data, act_data);
    products[1].run(own, e, t, act_data, y_data);
  };
  const auto run = [&] {
    if (!share_experts) {
      run_expert(stream, 0, 0);
      stream.wait();
      return;
    }
#pragma omp parallel num_threads(threads)
    {
      dnnl::stream own(engine);
#pragma omp for schedule(static)
      for (std::int64_t e = 0; e < experts; ++e) run_expert(own, e, omp_get_thread_num());
      own.wait();
    }
  };

  run();
  const auto version = dnnl_version();
  std::printf("ready oneDNN %d.%d.%d\n", version->major, version->minor, version->patch);
  std::fflush(stdout);
  std::string command;
  while (std::cin >> command) {
    if (command == "run") {
      int count = 0;
      std::cin >> count;
      std::printf("times");
      for (int i = 0; i < count; ++i) {
        const auto start = std::chrono::steady_clock::now();
        run();
        const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
        std::printf(" %.6f", time.count());
      }
      std::printf("\n");
    } else if (command == "output") {
      std::string path;
      std::cin >> path;
      memory result(plain.get_desc(), engine);
      dnnl::reorder(y, result).execute(stream, y, result);
      stream.wait();
      std::ofstream(path, std::ios::binary)
          .write(static_cast<const char*>(result.get_data_handle()), 4 * experts * rows * dim);
      std::puts("written");
    } else {
      break;
    }
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  std::map<std::string, std::string> problem;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    const auto at = argument.find('=');
    problem[argument.substr(0, at)] = argument.substr(at + 1);
  }
  try {
    return work(problem);
  } catch (const dnnl::error& error) {
    std::printf("skip %s\n", error.what());
    return 0;
  }
}
