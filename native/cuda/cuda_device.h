// A CUDA device: the GPU's primary context and one stream. Calls return as soon as the work is queued.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/device.h"
#include "cuda/completion_queue.h"
#include "cuda/cuda_kernels.h"
#include "cuda/device_memory.h"
#include "cuda/driver.h"
#include "cuda/launch.h"
#include "cuda/pinned_memory.h"

namespace softmoe::cuda {

class CudaDevice;

// Launches recorded between begin_capture and end_capture, queued again as one by replay. It holds the memory
// that they allocated and all that was in use before them (device_memory.h).
class Graph {
  struct Key {};

 public:
  Graph(Key, std::shared_ptr<CudaDevice> device, GraphExecutable executable, GraphBlocks blocks)
      : device_(std::move(device)), executable_(executable), blocks_(std::move(blocks)) {}
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

 private:
  friend class CudaDevice;

  std::shared_ptr<CudaDevice> device_;
  GraphExecutable executable_;
  GraphBlocks blocks_;
};

class CudaDevice final : public Device, public std::enable_shared_from_this<CudaDevice> {
  struct Key {};

 public:
  // Opens GPU `index`. Throws ERR_NO_DEVICE, ERR_DRIVER or ERR_NO_KERNEL_IMAGE.
  static std::shared_ptr<CudaDevice> open(int index);
  // The number of GPUs; throws as `open` does when the driver cannot be used.
  static int count();

  CudaDevice(Key, const Driver& driver, int index);
  ~CudaDevice() override;
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  const std::string& kind() const override { return kind_; }
  int index() const override { return index_; }
  std::string description() const override;

  void* allocate(std::size_t bytes) override;
  void release(void* data, std::size_t bytes) noexcept override;
  MemoryUsage memory_usage() const override;
  void empty_cache() override;

  void submit(const char* name, Task task) override;
  void upload(void* target, const void* source, std::size_t bytes) override;
  void download(const void* source, void* target, std::size_t bytes, Completion done) override;
  void on_reached(Completion done) override;
  void synchronize() override;
  void close() noexcept override;

  // Until end_capture, work is recorded instead of run. Uploads, downloads and waits are refused meanwhile.
  void begin_capture();
  // Throws the fault of a recorded operation, and what makes the recording unusable; the device then goes on
  // as if nothing had been recorded.
  std::unique_ptr<Graph> end_capture();
  void replay(const Graph& graph);

 private:
  friend class Graph;
  struct Upload {
    Event event;
    PinnedBlock block;
  };

  void require_open(const char* action) const;
  void make_current() const;
  // Keeps the first fault, told with the operations that may have caused it.
  void record_fault(const Error& error);
  void record_asynchronous_fault(Result result);
  std::optional<Error> take_fault();
  std::string recent_operations() const;
  // On the thread of the completions: `memory_fault` was made beforehand, for want of memory to make another.
  void finish(const Completion& done, std::optional<Error> pending, Error memory_fault,
              Result result) noexcept;
  void push(CompletionQueue::Action action, const std::optional<Error>& pending);
  void recycle_uploads(bool wait_for_one);
  void release_graph(Graph& graph) noexcept;

  const std::string kind_ = "cuda";
  const Driver& driver_;
  const int index_;
  DeviceHandle handle_ = 0;
  Context context_ = nullptr;
  Stream stream_ = nullptr;
  std::string name_;
  std::size_t total_memory_ = 0;
  DeviceProperties properties_;

  mutable std::mutex mutex_;  // of everything that queues work
  DeviceMemory memory_;
  PinnedMemory pinned_;
  std::unique_ptr<Launcher> launcher_;
  std::unique_ptr<CudaKernels> kernels_;
  std::unique_ptr<CompletionQueue> completions_;
  std::deque<Upload> uploads_;
  std::vector<Event> upload_events_;
  bool capturing_ = false;
  std::atomic<bool> closed_{false};

  mutable std::mutex fault_mutex_;
  std::optional<Error> fault_;
  std::atomic<bool> unusable_{false};
  std::deque<std::string> recent_;  // names of the last operations

  mutable std::mutex usage_mutex_;
  MemoryUsage usage_;
};

}  // namespace softmoe::cuda
