// The threads that CPU kernels share: one pool a process, used by one stream at a time.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>

namespace softmoe::cpu {

class ThreadPool {
 public:
  // Upper bound of threads(), so of every `worker` number.
  static constexpr int kMaxThreads = 256;

  // Never destroyed: its detached threads may outlive every static object of the process.
  static ThreadPool& instance();

  // Threads of one parallel_for, the caller among them. Starts as SOFTMOE_THREADS, else the usable cores.
  int threads() const { return threads_.load(std::memory_order_relaxed); }
  // Clamped to 1 … kMaxThreads; fewer when the system refuses more threads. Running loops are not disturbed.
  void set_threads(int threads);

  // Calls body(begin, end, worker) for chunks of `grain` indices that cover [0, count); the last may be
  // shorter. Chunks are handed out in ascending order to whoever is free; the caller takes part. `worker` is
  // below kMaxThreads and not shared by two threads of this loop. While another stream holds the pool, the
  // caller runs all chunks itself. The first exception of a body is thrown here after all others have ended.
  // Where chunks begin depends on `grain` alone, so a result made chunk by chunk does not depend on the
  // threads.
  template <class Body>
  void parallel_for(std::int64_t count, std::int64_t grain, const Body& body) {
    run(
        count, grain,
        [](const void* context, std::int64_t begin, std::int64_t end, int worker) {
          (*static_cast<const Body*>(context))(begin, end, worker);
        },
        &body);
  }

  // Thrown by parallel_for on a thread whose cancellation flag is set.
  struct Cancelled {};
  // Makes parallel_for calls of this thread stop at the next chunk once `*flag` is true. Null: never.
  static void set_cancellation_flag(const std::atomic<bool>* flag);

 private:
  using Function = void (*)(const void* context, std::int64_t begin, std::int64_t end, int worker);
  struct Loop {
    Function function = nullptr;
    const void* context = nullptr;
    std::int64_t count = 0, grain = 1;
    const std::atomic<bool>* cancelled = nullptr;
  };

  ThreadPool();
  void run(std::int64_t count, std::int64_t grain, Function function, const void* context);
  void run_chunks(int worker);
  void work();
  bool try_join(std::uint32_t& last_epoch, int& worker);
  void leave();
  void start_threads(int wanted);
  void wake(int helpers);
  void wait_for_helpers();

  std::atomic<int> threads_{1};
  int started_ = 0;  // threads besides the callers; guarded by start_mutex_
  std::mutex start_mutex_;

  std::mutex loop_mutex_;  // held by the stream whose loop runs
  Loop loop_;              // written while the loop is closed and nobody is in it
  std::atomic<std::int64_t> next_{0};
  std::atomic<bool> stopped_{false};
  std::exception_ptr failure_;
  std::mutex failure_mutex_;

  // Who may be in the loop: open flag, helpers allowed, joined so far and inside now, and the loop's number.
  std::atomic<std::uint64_t> state_{0};

  std::atomic<int> sleeping_{0};
  std::mutex sleep_mutex_;
  std::condition_variable work_arrived_;
  std::atomic<bool> caller_sleeps_{false};
  std::mutex end_mutex_;
  std::condition_variable helpers_left_;
};

}  // namespace softmoe::cpu
