#include "cpu/thread_pool.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>

#include "core/error.h"

namespace softmoe::cpu {
namespace {

// How often a thread looks for work before it sleeps: long enough to bridge the gap between the kernels of
// one pass, short enough to leave an idle core alone.
constexpr int kSpins = 800;

inline void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// The state word, from low to high: open (1 bit), inside (12), joined (12), helpers allowed (12), loop number
// (27).
constexpr std::uint64_t kOpen = 1;
constexpr std::uint64_t kOneInside = std::uint64_t{1} << 1;
constexpr std::uint64_t kOneJoined = std::uint64_t{1} << 13;
constexpr std::uint64_t kCountMask = 0xfff;
constexpr std::uint64_t inside(std::uint64_t state) { return (state >> 1) & kCountMask; }
constexpr std::uint64_t joined(std::uint64_t state) { return (state >> 13) & kCountMask; }
constexpr std::uint64_t allowed(std::uint64_t state) { return (state >> 25) & kCountMask; }
constexpr std::uint32_t loop_number(std::uint64_t state) { return static_cast<std::uint32_t>(state >> 37); }
constexpr std::uint64_t open_state(std::uint32_t number, int helpers) {
  return kOpen | static_cast<std::uint64_t>(helpers) << 25 | static_cast<std::uint64_t>(number) << 37;
}
static_assert(ThreadPool::kMaxThreads <= static_cast<int>(kCountMask),
              "the counts of the state word overflow");

thread_local const std::atomic<bool>* cancellation_flag = nullptr;
// The worker number inside a loop body, else -1. A loop started in a body runs on that thread, under that
// number.
thread_local int current_worker = -1;

bool is_set(const std::atomic<bool>* flag) { return flag && flag->load(std::memory_order_relaxed); }

struct FileClose {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

// Cores that the control group grants by its quota (a container started with a fraction of the machine), or
// 0.
int cores_by_quota() {
  const std::unique_ptr<std::FILE, FileClose> file(std::fopen("/sys/fs/cgroup/cpu.max", "re"));
  long long quota = 0, period = 0;
  if (!file || std::fscanf(file.get(), "%lld %lld", &quota, &period) != 2 || quota <= 0 || period <= 0)
    return 0;
  return static_cast<int>(std::clamp<long long>((quota + period - 1) / period, 1, ThreadPool::kMaxThreads));
}

int default_threads() {
  if (const char* text = std::getenv("SOFTMOE_THREADS"); text && *text) {
    char* end = nullptr;
    const long threads = std::strtol(text, &end, 10);
    if (*end || threads < 1 || threads > ThreadPool::kMaxThreads) {
      throw Error("ERR_INVALID_ARGUMENT", std::string("SOFTMOE_THREADS is \"") + text +
                                              "\": give a whole number from 1 to " +
                                              std::to_string(ThreadPool::kMaxThreads));
    }
    return static_cast<int>(threads);
  }
  const int cores =
      std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, ThreadPool::kMaxThreads);
  const int quota = cores_by_quota();
  return quota ? std::min(cores, quota) : cores;
}

// Keeps this library mapped: a host that closes it must not pull the code away under the detached threads.
void pin_library() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&pin_library), &info) && info.dli_fname) {
    dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
  }
}

}  // namespace

ThreadPool& ThreadPool::instance() {
  // Never deleted on purpose, see the header.
  static ThreadPool& pool = *std::unique_ptr<ThreadPool>(new ThreadPool).release();
  return pool;
}

ThreadPool::ThreadPool() {
  const int threads = default_threads();
  pin_library();
  set_threads(threads);
}

void ThreadPool::set_cancellation_flag(const std::atomic<bool>* flag) { cancellation_flag = flag; }

void ThreadPool::set_threads(int threads) {
  const std::lock_guard<std::mutex> lock(start_mutex_);
  threads = std::clamp(threads, 1, kMaxThreads);
  start_threads(threads - 1);
  threads_.store(std::min(threads, started_ + 1), std::memory_order_relaxed);
}

void ThreadPool::start_threads(int wanted) {
  // Signals belong to the host's threads: those started here inherit a full mask.
  sigset_t all, previous;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &previous);
  try {
    for (; started_ < wanted; ++started_) std::thread([this] { work(); }).detach();
  } catch (const std::exception&) {
    // No more threads, or no memory for them, to be had: those that run are enough.
  }
  pthread_sigmask(SIG_SETMASK, &previous, nullptr);
}

void ThreadPool::run(std::int64_t count, std::int64_t grain, Function function, const void* context) {
  if (count <= 0) return;
  grain = std::max<std::int64_t>(grain, 1);
  const std::int64_t chunks = (count + grain - 1) / grain;
  const std::atomic<bool>* cancelled = cancellation_flag;
  const int helpers = static_cast<int>(std::min<std::int64_t>(threads() - 1, chunks - 1));

  std::unique_lock<std::mutex> lock(loop_mutex_, std::defer_lock);
  if (current_worker >= 0 || helpers == 0 || !lock.try_lock()) {
    const int worker = std::max(current_worker, 0);
    for (std::int64_t begin = 0; begin < count; begin += grain) {
      if (is_set(cancelled)) throw Cancelled{};
      function(context, begin, std::min(count, begin + grain), worker);
    }
    return;
  }

  loop_ = {function, context, count, grain, cancelled};
  next_.store(0, std::memory_order_relaxed);
  stopped_.store(false, std::memory_order_relaxed);
  const std::uint32_t number = loop_number(state_.load(std::memory_order_relaxed)) + 1;
  state_.store(open_state(number, helpers));
  wake(helpers);
  run_chunks(0);
  state_.fetch_and(~kOpen);
  wait_for_helpers();

  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  if (stopped_.load(std::memory_order_relaxed)) throw Cancelled{};
}

void ThreadPool::run_chunks(int worker) {
  const Loop& loop = loop_;
  current_worker = worker;
  try {
    while (!stopped_.load(std::memory_order_relaxed)) {
      const std::int64_t begin = next_.fetch_add(loop.grain, std::memory_order_relaxed);
      if (begin >= loop.count) break;
      if (is_set(loop.cancelled)) {
        stopped_.store(true, std::memory_order_relaxed);
        break;
      }
      loop.function(loop.context, begin, std::min(loop.count, begin + loop.grain), worker);
    }
  } catch (...) {
    const std::lock_guard<std::mutex> lock(failure_mutex_);
    if (!failure_) failure_ = std::current_exception();
    stopped_.store(true, std::memory_order_relaxed);
  }
  current_worker = -1;
}

void ThreadPool::wake(int helpers) {
  // Both sides use sequentially consistent order: either this load sees the sleeper, or the sleeper sees the
  // loop.
  if (sleeping_.load() == 0) return;
  { const std::lock_guard<std::mutex> lock(sleep_mutex_); }
  if (helpers == 1) {
    work_arrived_.notify_one();
  } else {
    work_arrived_.notify_all();
  }
}

void ThreadPool::wait_for_helpers() {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (inside(state_.load(std::memory_order_acquire)) == 0) return;
    pause_core();
  }
  std::unique_lock<std::mutex> lock(end_mutex_);
  caller_sleeps_.store(true);
  helpers_left_.wait(lock, [this] { return inside(state_.load()) == 0; });
  caller_sleeps_.store(false);
}

// Enters the open loop unless this thread was in it before or it has all the helpers it wants.
bool ThreadPool::try_join(std::uint32_t& last_loop, int& worker) {
  std::uint64_t state = state_.load();
  while ((state & kOpen) && loop_number(state) != last_loop && joined(state) < allowed(state)) {
    if (state_.compare_exchange_weak(state, state + kOneInside + kOneJoined)) {
      last_loop = loop_number(state);
      worker = static_cast<int>(joined(state)) + 1;
      return true;
    }
  }
  return false;
}

void ThreadPool::leave() {
  const std::uint64_t before = state_.fetch_sub(kOneInside);
  if (inside(before) == 1 && caller_sleeps_.load()) {
    { const std::lock_guard<std::mutex> lock(end_mutex_); }
    helpers_left_.notify_all();
  }
}

void ThreadPool::work() {
  std::uint32_t last_loop = loop_number(state_.load()) - 1;
  int worker = 0;
  for (;;) {
    bool has_joined = false;
    for (int spin = 0; spin < kSpins && !has_joined; ++spin) {
      has_joined = try_join(last_loop, worker);
      if (!has_joined) pause_core();
    }
    if (!has_joined) {
      std::unique_lock<std::mutex> lock(sleep_mutex_);
      sleeping_.fetch_add(1);
      work_arrived_.wait(lock, [&] { return has_joined = try_join(last_loop, worker); });
      sleeping_.fetch_sub(1);
    }
    run_chunks(worker);
    leave();
  }
}

}  // namespace softmoe::cpu
