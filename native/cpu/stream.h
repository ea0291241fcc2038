// A queue of work and the thread that does it, in order. Knows nothing of memory.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/kernels.h"
#include "cpu/scratch.h"

namespace softmoe::cpu {

class Stream {
 public:
  using Task = std::function<void(Kernels&)>;
  using Completion = std::function<void(std::optional<Error>)>;

  // Starts the thread. Throws ERR_WORKER when the system refuses one.
  explicit Stream(const std::string& instruction_set);
  ~Stream() { close(); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Queues a task; a failure inside it becomes the pending fault, with `name` (a string literal).
  void submit(const char* name, Task task);
  // Queues a call of `done` with the pending fault, which is thereby reported. Each completion is called
  // exactly once: with ERR_ABORTED if the stream is closed before.
  void on_reached(Completion done);
  // Blocks until all work queued so far has ended. `wait` leaves the pending fault for others.
  void synchronize();
  void wait();
  void close() noexcept;

  // Numbers of items queued and ended so far: item n has ended once ended() >= n.
  std::uint64_t queued() const;
  std::uint64_t ended() const;
  bool is_closed() const;
  bool runs_on_this_thread() const;
  Scratch& scratch();

 private:
  std::optional<Error> wait_for_end(bool takes_fault);

  struct State;
  // Shared with the thread, which may outlive this object when it is the thread that destroys it.
  std::shared_ptr<State> state_;
  std::mutex join_mutex_;
  std::thread thread_;
};

}  // namespace softmoe::cpu
