// A device is an in-order stream with its own memory. Work is queued and the caller goes on; memory is
// ordered by the stream, so a block may be released and used again while earlier work still reads it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/error.h"
#include "core/kernels.h"

namespace softmoe {

struct MemoryUsage {
  std::int64_t tensors = 0;             // live storages
  std::int64_t bytes = 0;               // bytes of live storages
  std::int64_t cached_bytes = 0;        // bytes kept for reuse
  std::int64_t peak_bytes = 0;          // largest `bytes` so far
  std::int64_t system_allocations = 0;  // times that memory was asked of the system or driver
};

class Device {
 public:
  virtual ~Device() = default;

  virtual const std::string& kind() const = 0;  // "cpu" or "cuda"
  virtual int index() const = 0;
  // A JSON object for `doctor`: instruction set, threads, memory, driver …
  virtual std::string description() const = 0;

  // Blocks are at least 64-byte aligned (256 on CUDA) and not initialised. Throws ERR_OUT_OF_MEMORY.
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void release(void* data, std::size_t bytes) noexcept = 0;
  virtual MemoryUsage memory_usage() const = 0;
  // Gives cached memory back to the system.
  virtual void empty_cache() = 0;

  using Task = std::function<void(Kernels&)>;
  // Queues `task`. A failure inside it is kept and reported by the next wait, with `name`.
  virtual void submit(const char* name, Task task) = 0;
  template <class Args>
  void launch(const Args& args) {
    submit(Args::kName, [args](Kernels& kernels) { kernels.run(args); });
  }

  // Copies from host memory; `source` may be changed as soon as this returns.
  virtual void upload(void* target, const void* source, std::size_t bytes) = 0;
  // Copies to host memory when the stream gets there, then calls `done` on a thread of the device with the
  // pending fault, if any.
  using Completion = std::function<void(std::optional<Error>)>;
  virtual void download(const void* source, void* target, std::size_t bytes, Completion done) = 0;
  // Calls `done` when all that was queued so far has ended.
  virtual void on_reached(Completion done) = 0;
  // Blocks until all queued work has ended; throws the pending fault.
  virtual void synchronize() = 0;
  // Drops queued work and stops; nothing may be queued after it. Safe to call twice.
  virtual void close() noexcept = 0;
};

}  // namespace softmoe
