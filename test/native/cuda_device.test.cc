// The CUDA device over the driver that SOFTMOE_CUDA_DRIVER names: order, copies, faults, memory, graphs; and,
// with the emulated driver, what becomes of every driver call that fails. Each failure has a process of its
// own.
#include "cuda/cuda_device.h"

#include <unistd.h>

#include <array>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "testing.h"

namespace softmoe::testing {
namespace {

using Device = cuda::CudaDevice;

// What `wait` reported, once it did.
class Wait {
 public:
  softmoe::Device::Completion completion() {
    return [this](std::optional<Error> fault) {
      const std::lock_guard<std::mutex> lock(mutex_);
      fault_ = std::move(fault);
      done_ = true;
      changed_.notify_one();
    };
  }
  std::optional<Error> get() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
    return fault_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Error> fault_;
  bool done_ = false;
};

std::vector<float> downloaded(Device& device, const void* source, std::size_t count) {
  std::vector<float> values(count);
  Wait wait;
  device.download(source, values.data(), count * sizeof(float), wait.completion());
  if (const std::optional<Error> fault = wait.get()) throw Error(*fault);
  return values;
}

// y = 2 x of [rows, 64] by a product with twice the identity.
class Doubling {
 public:
  Doubling(const std::shared_ptr<Device>& device, std::int64_t rows)
      : rows_(rows), device_(*device), w_(device, 64 * 64 * 4), x_(device, bytes()), y_(device, bytes()) {
    std::vector<float> identity(64 * 64);
    for (std::size_t i = 0; i < 64; ++i) identity[i * 65] = 2;
    device_.upload(w_.data(), identity.data(), identity.size() * 4);
  }

  void upload(const std::vector<float>& x) { device_.upload(x_.data(), x.data(), bytes()); }
  void run() {
    LinearForward args;
    args.x = {x_.data(), DType::kFloat32}, args.w = {w_.data(), DType::kFloat32};
    args.y = {y_.data(), DType::kFloat32};
    args.rows = rows_, args.in = 64, args.out = 64;
    device_.launch(args);
  }
  std::vector<float> result() { return downloaded(device_, y_.data(), bytes() / 4); }

 private:
  std::size_t bytes() const { return static_cast<std::size_t>(rows_) * 64 * 4; }

  std::int64_t rows_;
  Device& device_;
  Storage w_, x_, y_;
};

std::vector<float> counted(std::size_t count, float first) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = first + static_cast<float>(i % 1000);
  return values;
}
bool is_double(const std::vector<float>& y, const std::vector<float>& x) {
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (y[i] != 2 * x[i]) return false;
  }
  return y.size() == x.size();
}

TEST(cuda_device_copies_and_computes_in_order) {
  if (!tests_cuda()) return;
  const auto device = Device::open(0);
  Doubling small(device, 1), large(device, 40000);  // several chunks of an upload
  for (float step = 0; step < 3; ++step) {
    std::vector<float> x = counted(40000 * 64, step), one = counted(64, 10 * step);
    large.upload(x);
    small.upload(one);
    const std::vector<float> kept = x;
    std::fill(x.begin(), x.end(), -1.0f);  // the source may change at once
    small.run();
    CHECK(is_double(small.result(), one));
    if (step == 2) large.run();
    if (step == 2) CHECK(is_double(large.result(), kept));
  }
  device->close();
  device->close();
}

TEST(cuda_device_asks_the_driver_for_nothing_in_a_steady_state) {
  if (!tests_cuda()) return;
  const auto device = Device::open(0);
  std::int64_t allocations = 0;
  for (int step = 0; step < 4; ++step) {
    Doubling work(device, 33);
    work.upload(counted(33 * 64, 0));
    work.run();
    CHECK(is_double(work.result(), counted(33 * 64, 0)));
    if (step == 1) allocations = device->memory_usage().system_allocations;
  }
  const MemoryUsage usage = device->memory_usage();
  CHECK_EQUAL(usage.system_allocations, allocations);
  CHECK_EQUAL(usage.tensors, 0);
  CHECK_EQUAL(usage.bytes, 0);
  CHECK(usage.cached_bytes > 0);
  device->empty_cache();
  CHECK_EQUAL(device->memory_usage().cached_bytes, 0);
}

TEST(cuda_device_reports_a_fault_once_with_the_operations_name) {
  if (!tests_cuda()) return;
  const auto device = Device::open(0);
  device->submit("broken", [](Kernels&) { throw Error("ERR_INVALID_ARGUMENT", "first"); });
  device->submit("later", [](Kernels&) { throw Error("ERR_INVALID_ARGUMENT", "second"); });
  Wait wait;
  device->on_reached(wait.completion());
  const std::optional<Error> fault = wait.get();
  CHECK(fault.has_value());
  CHECK_EQUAL(fault->code(), std::string("ERR_INVALID_ARGUMENT"));
  CHECK_EQUAL(std::string(fault->what()), std::string("broken: first"));
  device->synchronize();
}

TEST(cuda_graph_repeats_captured_work_on_new_inputs) {
  if (!tests_cuda()) return;
  const auto device = Device::open(0);
  Doubling work(device, 5);
  work.upload(counted(5 * 64, 0));
  work.run();  // loads the kernel
  device->synchronize();
  device->begin_capture();
  work.run();
  const std::unique_ptr<cuda::Graph> graph = device->end_capture();
  for (float first = 1; first < 4; ++first) {
    work.upload(counted(5 * 64, first));
    device->replay(*graph);
    CHECK(is_double(work.result(), counted(5 * 64, first)));
  }
}

TEST(cuda_device_refuses_an_index_that_is_not_there) {
  if (!tests_cuda()) return;
  try {
    Device::open(Device::count());
    CHECK(false);
  } catch (const Error& error) {
    CHECK_EQUAL(error.code(), std::string("ERR_NO_DEVICE"));
  }
}

// --- failures: this program again, with an environment
// ------------------------------------------------------------

// Prints "ok", or the code and text of the error.
TEST(cuda_scenario) {
  if (!std::getenv("SOFTMOE_TEST_SCENARIO")) return;
  try {
    const auto device = Device::open(0);
    const std::vector<float> x = counted(7 * 64, 1);
    {
      Doubling work(device, 7);
      work.upload(x);
      work.run();
      CHECK(is_double(work.result(), x));
      device->synchronize();
    }
    device->empty_cache();
    device->close();
    std::printf("scenario ok\n");
  } catch (const Error& error) {
    std::printf("scenario %s %s\n", error.code().c_str(), error.what());
  }
}

std::string run_scenario(const std::string& environment) {
  std::array<char, 4096> path{};
  CHECK(::readlink("/proc/self/exe", path.data(), path.size() - 1) > 0);
  const std::string command = "env SOFTMOE_TEST_SCENARIO=1 SOFTMOE_EMULATOR_LEAKS=stderr " + environment +
                              " " + path.data() + " cuda_scenario 2>&1";
  FILE* pipe = ::popen(command.c_str(), "r");
  CHECK(pipe != nullptr);
  std::string output;
  std::array<char, 4096> line{};
  while (std::fgets(line.data(), line.size(), pipe)) output += line.data();
  const int status = ::pclose(pipe);
  if (status != 0) output += "\nstatus " + std::to_string(status);
  return output;
}

TEST(cuda_device_tells_why_there_is_no_device) {
  if (!tests_cuda()) return;
  struct Case {
    const char *environment, *wanted;
  };
  const Case cases[] = {
      {"SOFTMOE_CUDA_DRIVER=/nowhere/libcuda.so",
       "ERR_NO_DEVICE the CUDA driver library /nowhere/libcuda.so"},
      {"SOFTMOE_CUDA_DRIVER=libm.so.6", "ERR_DRIVER libm.so.6 has no function cuInit"},
      {"SOFTMOE_EMULATOR_DEVICES=0", "ERR_NO_DEVICE the NVIDIA driver finds no GPU"},
      {"SOFTMOE_EMULATOR_DRIVER_VERSION=12040", "ERR_DRIVER the NVIDIA driver supports CUDA 12.4"},
      {"SOFTMOE_EMULATOR_FAIL=cuModuleLoadDataEx:1:209", "ERR_NO_KERNEL_IMAGE linear: loading the kernels"},
      {"SOFTMOE_EMULATOR_FAIL=alloc:1:2", "ERR_OUT_OF_MEMORY allocating"},
      {"SOFTMOE_EMULATOR_MEMORY_MB=0", "ERR_"},
      {"SOFTMOE_EMULATOR_FAIL=launch:1:701", "ERR_LAUNCH linear: launching the kernel row_product"},
      {"SOFTMOE_EMULATOR_FAIL=launch:1:700", "ERR_LAUNCH linear"},
      {"SOFTMOE_EMULATOR_FAIL=launch:1:719 SOFTMOE_DEBUG=1", "ERR_LAUNCH linear"},
      {"SOFTMOE_EMULATOR_FAIL=cuMemHostAlloc:1:2", "scenario ok"},  // slower, without staging
      {"SOFTMOE_DEBUG=1", "softmoe: row_product_nn_float32_16 <<<(1, 1, 1), 128, "},
  };
  for (const Case& c : cases) {
    const std::string output = run_scenario(c.environment);
    const Context context(std::string(c.environment) + ": " + output);
    CHECK(output.find(c.wanted) != std::string::npos);
    CHECK(output.find("status") == std::string::npos);
    CHECK(output.find("leak") == std::string::npos);
  }
}

// The n-th driver call fails, for every n that is reached: an error with a code or none, never a crash or a
// hang.
TEST(cuda_device_survives_the_failure_of_any_driver_call) {
  if (!tests_cuda()) return;
  int failures = 0;
  for (const char* code : {"2", "999", "700"}) {
    for (int n = 1; n < 400; n += std::strcmp(code, "2") == 0 ? 1 : 3) {
      const std::string environment = "SOFTMOE_EMULATOR_FAIL=\"*:" + std::to_string(n) + ":" + code + "\"";
      const std::string output = run_scenario(environment);
      const Context context(environment + ": " + output);
      CHECK(output.find("scenario ") != std::string::npos);
      CHECK(output.find("status") == std::string::npos);
      const bool fails = output.find("scenario ERR_") != std::string::npos;
      failures += fails;
      if (!fails && n > 60) break;  // past the last call
    }
  }
  CHECK(failures > 30);
}

}  // namespace
}  // namespace softmoe::testing
