#include "cpu/cpu_device.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <future>
#include <thread>

#include "core/tensor.h"
#include "cpu/isa_detect.h"
#include "cpu/thread_pool.h"
#include "testing.h"

namespace softmoe::testing {
namespace {

// Sets an environment variable for a scope.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Environment() { unsetenv(name_); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
};

std::optional<Error> wait_for(Device& device) {
  std::promise<std::optional<Error>> reached;
  device.on_reached([&](std::optional<Error> fault) { reached.set_value(std::move(fault)); });
  return reached.get_future().get();
}

template <class Call>
std::string code_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return "nothing thrown";
}

TEST(device_runs_tasks_in_order) {
  const auto device = cpu::open_cpu_device();
  std::vector<int> order;
  for (int i = 0; i < 1000; ++i) device->submit("task", [&order, i](Kernels&) { order.push_back(i); });
  device->synchronize();
  for (int i = 0; i < 1000; ++i) CHECK_EQUAL(order[static_cast<std::size_t>(i)], i);
}

TEST(device_reports_a_fault_once_with_the_operations_name_and_goes_on) {
  const auto device = cpu::open_cpu_device();
  bool later = false;
  device->submit("layer_norm", [](Kernels&) { throw Error("ERR_INVALID_ARGUMENT", "first"); });
  device->submit("matmul", [](Kernels&) { throw std::bad_alloc(); });
  device->submit("add", [&](Kernels&) { later = true; });
  const std::optional<Error> fault = wait_for(*device);
  CHECK(fault.has_value());
  CHECK_EQUAL(fault->code(), std::string("ERR_INVALID_ARGUMENT"));
  CHECK_EQUAL(std::string(fault->what()), std::string("layer_norm: first"));
  CHECK(later);
  device->synchronize();

  device->submit("softmax", [](Kernels&) { throw std::bad_alloc(); });
  CHECK_EQUAL(code_of([&] { device->synchronize(); }), std::string("ERR_OUT_OF_MEMORY"));
  device->synchronize();
}

TEST(device_uploads_and_downloads_in_order_of_the_stream) {
  const auto device = cpu::open_cpu_device();
  constexpr std::size_t kCount = 3 << 20;
  const std::size_t bytes = kCount * sizeof(float);
  float* data = static_cast<float*>(device->allocate(bytes));
  std::vector<float> source(kCount, 1.0f), target(kCount, 0.0f);
  device->upload(data, source.data(), bytes);
  // A slow reader keeps the old values in use while the next upload is asked for.
  double sum = 0;
  device->submit("reader", [&](Kernels&) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    for (std::size_t i = 0; i < kCount; ++i) sum += data[i];
  });
  for (float& value : source) value = 2.0f;
  device->upload(data, source.data(), bytes);
  for (float& value : source) value = 3.0f;  // may be changed at once
  std::promise<std::optional<Error>> done;
  device->download(data, target.data(), bytes,
                   [&](std::optional<Error> fault) { done.set_value(std::move(fault)); });
  CHECK(!done.get_future().get().has_value());
  CHECK_EQUAL(sum, static_cast<double>(kCount));
  for (const float value : target) CHECK(value == 2.0f);
  device->release(data, bytes);
}

TEST(device_does_not_write_into_a_block_that_queued_work_still_reads) {
  const auto device = cpu::open_cpu_device();
  const std::size_t bytes = 1 << 16;
  auto* first = static_cast<char*>(device->allocate(bytes));
  std::memset(first, 7, bytes);
  char seen = 0;
  device->submit("reader", [&](Kernels&) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    seen = first[100];
  });
  device->release(first, bytes);
  auto* second = static_cast<char*>(device->allocate(bytes));
  CHECK(second == first);  // handed out again at once
  const std::vector<char> source(bytes, 9);
  device->upload(second, source.data(), bytes);
  device->synchronize();
  CHECK_EQUAL(static_cast<int>(seen), 7);
  CHECK_EQUAL(static_cast<int>(second[100]), 9);
  device->release(second, bytes);
}

TEST(device_counts_memory_and_asks_the_system_for_nothing_in_a_steady_state) {
  const std::shared_ptr<Device> device = cpu::open_cpu_device();
  std::int64_t asked = 0;
  for (int step = 0; step < 20; ++step) {
    std::vector<Tensor> tensors;
    for (const std::int64_t rows : {1, 10, 100, 1000, 30000}) {
      tensors.push_back(Tensor::empty(device, Shape{rows, 65}, DType::kFloat32));
      CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(tensors.back().data()) % 64, 0u);
      const std::vector<float> values(static_cast<std::size_t>(rows * 65), 1.0f);
      device->upload(tensors.back().data(), values.data(), tensors.back().bytes());
      float* data = static_cast<float*>(tensors.back().data());
      device->submit("touch", [data](Kernels&) { data[0] += 1; });
    }
    const MemoryUsage usage = device->memory_usage();
    CHECK_EQUAL(usage.tensors, 5);
    CHECK_EQUAL(usage.bytes, (1 + 10 + 100 + 1000 + 30000) * 65 * 4);
    CHECK_EQUAL(usage.peak_bytes, usage.bytes);
    device->synchronize();
    if (step == 1) asked = usage.system_allocations;
    if (step > 1) CHECK_EQUAL(usage.system_allocations, asked);
  }
  CHECK_EQUAL(device->memory_usage().tensors, 0);
  CHECK_EQUAL(device->memory_usage().bytes, 0);
  CHECK(device->memory_usage().cached_bytes > 31111 * 65 * 4);
  device->empty_cache();
  device->synchronize();
  CHECK_EQUAL(device->memory_usage().cached_bytes, 0);
}

TEST(device_runs_out_of_memory_with_the_numbers_and_recovers) {
  const Environment limit("SOFTMOE_CPU_MEMORY_LIMIT", "1000000");
  const auto device = cpu::open_cpu_device();
  void* a = device->allocate(600000);
  std::string text;
  try {
    device->allocate(500000);
  } catch (const Error& error) {
    CHECK_EQUAL(error.code(), std::string("ERR_OUT_OF_MEMORY"));
    text = error.what();
  }
  CHECK(text.find("500000 bytes") != std::string::npos);
  CHECK(text.find("600000 bytes are in use by 1 tensors") != std::string::npos);
  // The cached block makes room for another size, also while queued work still uses it.
  bool ran = false;
  device->submit("reader", [&, a](Kernels&) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    static_cast<char*>(a)[0] = 1;
    ran = true;
  });
  device->release(a, 600000);
  void* b = device->allocate(800000);
  CHECK(ran);
  device->release(b, 800000);
  CHECK_EQUAL(code_of([&] { device->allocate(std::size_t{1} << 60); }), std::string("ERR_OUT_OF_MEMORY"));
}

TEST(device_closes_while_work_is_in_flight) {
  for (int round = 0; round < 20; ++round) {
    const auto device = cpu::open_cpu_device();
    std::atomic<int> ran{0};
    for (int i = 0; i < 100; ++i) {
      device->submit("slow", [&](Kernels&) {
        cpu::ThreadPool::instance().parallel_for(1000, 1, [&](std::int64_t, std::int64_t, int) {
          std::this_thread::sleep_for(std::chrono::microseconds(200));
        });
        ++ran;
      });
    }
    std::promise<std::optional<Error>> done;
    device->on_reached([&](std::optional<Error> fault) { done.set_value(std::move(fault)); });
    device->close();
    device->close();
    // All of it takes 10 s. How much of it runs before close() is the system's affair.
    CHECK(ran.load() < 100);
    const std::optional<Error> fault = done.get_future().get();
    CHECK(fault.has_value());
    CHECK_EQUAL(fault->code(), std::string("ERR_ABORTED"));
    CHECK_EQUAL(code_of([&] { device->submit("late", [](Kernels&) {}); }), std::string("ERR_DISPOSED"));
  }
}

TEST(device_may_be_destroyed_by_its_own_thread_and_with_tensors_in_the_queue) {
  for (int round = 0; round < 50; ++round) {
    std::shared_ptr<Device> device = cpu::open_cpu_device();
    auto tensor = std::make_shared<Tensor>(Tensor::empty(device, Shape{100}, DType::kFloat32));
    device->submit("last_owner",
                   [tensor](Kernels&) { std::this_thread::sleep_for(std::chrono::microseconds(100)); });
    tensor.reset();
    device.reset();
  }
}

TEST(devices_are_independent_streams) {
  const auto a = cpu::open_cpu_device();
  const auto b = cpu::open_cpu_device();
  std::promise<void> gate;
  std::shared_future<void> open(gate.get_future());
  a->submit("blocked", [open](Kernels&) { open.wait(); });
  bool ran = false;
  b->submit("free", [&](Kernels&) { ran = true; });
  b->synchronize();
  CHECK(ran);
  gate.set_value();
  a->synchronize();
}

TEST(device_takes_the_instruction_set_that_the_environment_names) {
  {
    const Environment isa("SOFTMOE_CPU_ISA", "avx3");
    CHECK_EQUAL(code_of([] { cpu::open_cpu_device(); }), std::string("ERR_INVALID_ARGUMENT"));
  }
  const std::string lowest = cpu::available_instruction_sets().front();
  const Environment isa("SOFTMOE_CPU_ISA", lowest.c_str());
  const std::string text = cpu::open_cpu_device()->description();
  CHECK(text.find("\"instructionSet\":\"" + lowest + "\"") != std::string::npos);
}

TEST(device_refuses_an_unusable_memory_limit) {
  for (const char* limit : {"0", "-5", "12x", "many"}) {
    const Environment scope("SOFTMOE_CPU_MEMORY_LIMIT", limit);
    CHECK_EQUAL(code_of([] { cpu::open_cpu_device(); }), std::string("ERR_INVALID_ARGUMENT"));
  }
}

}  // namespace
}  // namespace softmoe::testing
