#include "cpu/cpu_device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>

#include "cpu/host_info.h"
#include "cpu/isa_detect.h"
#include "cpu/memory_cache.h"
#include "cpu/stream.h"
#include "cpu/thread_pool.h"

namespace softmoe::cpu {
namespace {

// Above this, a copy is worth the threads of the pool.
constexpr std::int64_t kCopyChunkBytes = std::int64_t{1} << 20;

void copy_bytes(void* target, const void* source, std::size_t bytes) {
  ThreadPool::instance().parallel_for(
      static_cast<std::int64_t>(bytes), kCopyChunkBytes, [&](std::int64_t begin, std::int64_t end, int) {
        std::memcpy(static_cast<char*>(target) + begin, static_cast<const char*>(source) + begin,
                    static_cast<std::size_t>(end - begin));
      });
}

std::size_t memory_limit() {
  const char* text = std::getenv("SOFTMOE_CPU_MEMORY_LIMIT");
  if (!text || !*text) return usable_memory_bytes();
  char* end = nullptr;
  const unsigned long long bytes = std::strtoull(text, &end, 10);
  if (*end || *text == '-' || bytes == 0) {
    throw Error("ERR_INVALID_ARGUMENT", std::string("SOFTMOE_CPU_MEMORY_LIMIT is \"") + text +
                                            "\": give a whole number of bytes above 0");
  }
  return static_cast<std::size_t>(bytes);
}

std::string quoted(const std::string& text) {
  std::string json = "\"";
  for (const char letter : text) {
    if (letter == '"' || letter == '\\') json += '\\';
    if (static_cast<unsigned char>(letter) >= 0x20) json += letter;
  }
  return json + "\"";
}

class CpuDevice final : public Device {
 public:
  CpuDevice(std::string instruction_set, std::size_t limit)
      : instruction_set_(std::move(instruction_set)), memory_(limit), stream_(instruction_set_) {}
  ~CpuDevice() override { close(); }

  const std::string& kind() const override { return kind_; }
  int index() const override { return 0; }
  std::string description() const override;

  void* allocate(std::size_t bytes) override;
  void release(void* data, std::size_t bytes) noexcept override;
  MemoryUsage memory_usage() const override;
  void empty_cache() override;

  void submit(const char* name, Task task) override { stream_.submit(name, std::move(task)); }
  void upload(void* target, const void* source, std::size_t bytes) override;
  void download(const void* source, void* target, std::size_t bytes, Completion done) override;
  void on_reached(Completion done) override { stream_.on_reached(std::move(done)); }
  void synchronize() override { stream_.synchronize(); }
  void close() noexcept override { stream_.close(); }

 private:
  [[noreturn]] void throw_out_of_memory(std::size_t bytes) const;
  template <class Take>
  MemoryCache::Block take_or_wait(std::size_t bytes, const Take& take);
  bool is_idle_block(const void* target) const;

  const std::string kind_ = "cpu";
  const std::string instruction_set_;

  mutable std::mutex mutex_;  // guards what follows
  MemoryUsage usage_;
  // The newest block, and the stream's position when it was handed out: while nothing was queued since, only
  // earlier owners can be using it.
  struct {
    MemoryCache::Block block;
    std::uint64_t queued = 0;
  } newest_;

  MemoryCache memory_;
  Stream stream_;  // ends before the memory that its work uses
};

std::string CpuDevice::description() const {
  std::string sets;
  for (const std::string& name : available_instruction_sets())
    sets += (sets.empty() ? "" : ",") + quoted(name);
  return "{\"kind\":\"cpu\",\"name\":" + quoted(processor_name()) +
         ",\"instructionSet\":" + quoted(instruction_set_) + ",\"availableInstructionSets\":[" + sets +
         "],\"threads\":" + std::to_string(ThreadPool::instance().threads()) +
         ",\"memoryLimitBytes\":" + std::to_string(memory_.limit()) + "}";
}

void CpuDevice::throw_out_of_memory(std::size_t bytes) const {
  const MemoryUsage usage = memory_usage();
  throw Error("ERR_OUT_OF_MEMORY",
              "the CPU device has no memory for " + std::to_string(bytes) + " bytes: " +
                  std::to_string(usage.bytes) + " bytes are in use by " + std::to_string(usage.tensors) +
                  " tensors and " + std::to_string(usage.cached_bytes) + " are cached, of " +
                  std::to_string(memory_.limit()) + " bytes; dispose of tensors or use a smaller batch");
}

// What `take` returns, if need be after the cache was emptied of what is idle, then of all that ends.
template <class Take>
MemoryCache::Block CpuDevice::take_or_wait(std::size_t bytes, const Take& take) {
  MemoryCache::Block block = take();
  if (block.data) return block;
  memory_.trim(stream_.ended());
  block = take();
  if (block.data) return block;
  if (!stream_.runs_on_this_thread()) {
    stream_.wait();
    memory_.trim(stream_.ended());
    block = take();
  }
  if (!block.data) throw_out_of_memory(bytes);
  return block;
}

void* CpuDevice::allocate(std::size_t bytes) {
  const MemoryCache::Block block = take_or_wait(bytes, [&] { return memory_.take(bytes); });
  const std::lock_guard<std::mutex> lock(mutex_);
  usage_.tensors += 1;
  usage_.bytes += static_cast<std::int64_t>(bytes);
  usage_.peak_bytes = std::max(usage_.peak_bytes, usage_.bytes);
  newest_ = {block, stream_.queued()};
  return block.data;
}

void CpuDevice::release(void* data, std::size_t bytes) noexcept {
  if (!data) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    usage_.tensors -= 1;
    usage_.bytes -= static_cast<std::int64_t>(bytes);
    if (newest_.block.data == data) newest_ = {};
  }
  memory_.give_back({data, stream_.queued()}, bytes);
}

MemoryUsage CpuDevice::memory_usage() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  MemoryUsage usage = usage_;
  usage.cached_bytes = static_cast<std::int64_t>(memory_.cached_bytes());
  usage.system_allocations = memory_.system_allocations();
  return usage;
}

void CpuDevice::empty_cache() {
  memory_.trim(stream_.ended());
  if (stream_.is_closed()) return;
  // What queued work still uses goes when the stream has passed it, and the kernels' temporary memory with
  // it.
  stream_.submit("empty_cache", [this, passed = stream_.queued()](Kernels&) {
    memory_.trim(passed);
    stream_.scratch().free_all();
  });
}

bool CpuDevice::is_idle_block(const void* target) const {
  const std::uint64_t ended = stream_.ended();
  const std::lock_guard<std::mutex> lock(mutex_);
  if (stream_.queued() == ended) return true;
  return newest_.block.data == target && stream_.queued() == newest_.queued &&
         newest_.block.last_use <= ended;
}

void CpuDevice::upload(void* target, const void* source, std::size_t bytes) {
  if (bytes == 0) return;
  if (is_idle_block(target)) {
    std::memcpy(target, source, bytes);
    return;
  }
  MemoryCache::Block staging = take_or_wait(bytes, [&] { return memory_.take(bytes, stream_.ended()); });
  std::memcpy(staging.data, source, bytes);
  stream_.submit("upload",
                 [target, bytes, staged = staging.data](Kernels&) { copy_bytes(target, staged, bytes); });
  memory_.give_back({staging.data, stream_.queued()}, bytes);
}

void CpuDevice::download(const void* source, void* target, std::size_t bytes, Completion done) {
  stream_.submit("download", [=](Kernels&) {
    if (bytes) copy_bytes(target, source, bytes);
  });
  stream_.on_reached(std::move(done));
}

}  // namespace

std::shared_ptr<Device> open_cpu_device() {
  return std::make_shared<CpuDevice>(chosen_instruction_set(), memory_limit());
}

int set_threads(int threads) {
  ThreadPool::instance().set_threads(threads);
  return ThreadPool::instance().threads();
}

int threads() { return ThreadPool::instance().threads(); }

}  // namespace softmoe::cpu
