#include "cuda/launch.h"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace softmoe::cuda {

namespace {

bool is_set(const char* variable) {
  const char* value = std::getenv(variable);
  return value && *value && std::string(value) != "0";
}

DevicePointer address_of(const void* data) { return reinterpret_cast<DevicePointer>(data); }

}  // namespace

Launcher::Launcher(const Driver& driver, Stream stream, DeviceMemory& memory,
                   const DeviceProperties& properties)
    : driver_(driver),
      stream_(stream),
      memory_(memory),
      properties_(properties),
      library_(driver),
      index_reports_(driver),
      debug_(is_set("SOFTMOE_DEBUG")),
      tf32_allowed_(is_set("SOFTMOE_CUDA_TF32")),
      wgmma_allowed_(is_set("SOFTMOE_CUDA_WGMMA") && properties.compute_capability == 90 &&
                     driver.tensor_map_encode) {
  if (debug_) {
    driver_.check(driver_.event_create(&start_, kEventDefault), "creating an event");
    driver_.check(driver_.event_create(&end_, kEventDefault), "creating an event");
  }
}

Launcher::~Launcher() {
  if (start_) driver_.event_destroy(start_);
  if (end_) driver_.event_destroy(end_);
}

void Launcher::launch_untyped(const char* file, const char* name, Grid grid, unsigned threads,
                              std::size_t shared_bytes, void** arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const Kernel& kernel = library_.get(file, name, shared_bytes);
  const bool timed = debug_ && !capturing_;
  if (timed) driver_.check(driver_.event_record(start_, stream_), "recording an event");
  const Result launched =
      driver_.launch_kernel(kernel.function, static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                            static_cast<unsigned>(grid.z), threads, 1, 1, static_cast<unsigned>(shared_bytes),
                            stream_, arguments, nullptr);
  const std::string configuration = " <<<(" + std::to_string(grid.x) + ", " + std::to_string(grid.y) + ", " +
                                    std::to_string(grid.z) + "), " + std::to_string(threads) + ", " +
                                    std::to_string(shared_bytes) + ">>>";
  driver_.check(launched, std::string("launching the kernel ") + name + configuration);
  if (!timed) return;
  // Waiting after each launch is what tells which kernel faults.
  driver_.check(driver_.event_record(end_, stream_), "recording an event");
  const Result ended = driver_.event_synchronize(end_);
  float milliseconds = 0;
  if (ended == kSuccess) driver_.event_elapsed(&milliseconds, start_, end_);
  std::fprintf(stderr, "softmoe: %s%s %d registers, %d bytes of local memory, %.4f ms%s\n", name,
               configuration.c_str(), kernel.registers, kernel.local_bytes, static_cast<double>(milliseconds),
               ended == kSuccess ? "" : " FAILED");
  driver_.check(ended, std::string("running the kernel ") + name + configuration);
}

void Launcher::clear(void* data, std::size_t bytes) {
  if (bytes == 0) return;
  driver_.check(driver_.set_bytes(address_of(data), 0, bytes, stream_), "clearing GPU memory");
}

void Launcher::copy(void* target, const void* source, std::size_t bytes) {
  if (bytes == 0) return;
  driver_.check(driver_.copy_on_device(address_of(target), address_of(source), bytes, stream_),
                "copying GPU memory");
}

}  // namespace softmoe::cuda
