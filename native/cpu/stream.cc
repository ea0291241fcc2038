#include "cpu/stream.h"

#include <pthread.h>
#include <signal.h>

#include <exception>
#include <future>
#include <new>
#include <utility>

#include "cpu/isa_detect.h"

namespace softmoe::cpu {
namespace {

// Looks for new work before the thread sleeps, about as long as a wake-up through the system would take.
constexpr int kSpins = 1000;

std::unique_ptr<Error> make_memory_fault() {
  return std::make_unique<Error>("ERR_OUT_OF_MEMORY", "the process has no memory left: use a smaller batch");
}

constexpr const char* kAborted =
    "the device was closed before its queued work had ended: wait for the work first";

void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

struct Stream::State {
  struct Item {
    const char* name = nullptr;
    Task task;                // null for a completion
    Completion done;          // null for a task
    bool takes_fault = true;  // whether the completion reports the pending fault
    // Of a completion, made beforehand: what it tells where there is no memory to tell more.
    std::unique_ptr<Error> memory_fault;
  };

  std::mutex mutex;
  std::condition_variable arrived;
  std::vector<Item> queue;  // guarded by mutex
  bool sleeps = false;      // guarded by mutex
  std::atomic<bool> closed{false};
  std::atomic<std::uint64_t> queued{0}, ended{0};
  std::atomic<std::thread::id> thread_id{};

  // The stream's own thread alone uses these.
  Scratch scratch;
  std::unique_ptr<Kernels> kernels;
  std::optional<Error> fault;
  bool fault_without_memory = false;  // a fault that could not even be written down

  void push(Item item) {
    bool was_asleep = false;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (closed.load(std::memory_order_relaxed)) {
        throw Error("ERR_DISPOSED", "the device was closed: open another one");
      }
      queue.push_back(std::move(item));
      queued.fetch_add(1, std::memory_order_release);
      was_asleep = std::exchange(sleeps, false);
    }
    if (was_asleep) arrived.notify_one();
  }

  // Moves all queued items to `batch`; false once the stream is closed.
  bool take(std::vector<Item>& batch) {
    const std::uint64_t taken = ended.load(std::memory_order_relaxed);
    for (int spin = 0; spin < kSpins; ++spin) {
      if (queued.load(std::memory_order_acquire) != taken || closed.load(std::memory_order_relaxed)) break;
      pause_core();
    }
    std::unique_lock<std::mutex> lock(mutex);
    while (queue.empty() && !closed.load(std::memory_order_relaxed)) {
      sleeps = true;
      arrived.wait(lock);
    }
    sleeps = false;
    batch.swap(queue);
    return !batch.empty();
  }

  void keep_fault(const char* name, const char* code, const char* text) noexcept {
    if (fault || fault_without_memory) return;
    try {
      fault.emplace(code, std::string(name) + ": " + text);
    } catch (const std::bad_alloc&) {
      fault_without_memory = true;
    }
  }

  std::optional<Error> take_fault(std::unique_ptr<Error> memory_fault) noexcept {
    if (std::exchange(fault_without_memory, false)) return std::move(*memory_fault);
    return std::exchange(fault, std::nullopt);
  }

  void run_task(const Item& item) {
    try {
      item.task(*kernels);
    } catch (const ThreadPool::Cancelled&) {
      // The stream is closing.
    } catch (const Error& error) {
      keep_fault(item.name, error.code().c_str(), error.what());
    } catch (const std::bad_alloc&) {
      keep_fault(item.name, "ERR_OUT_OF_MEMORY", "no memory for temporary values: use a smaller batch");
    } catch (const std::exception& error) {
      keep_fault(item.name, "ERR_INTERNAL", error.what());
    }
  }

  static void complete(const Completion& done, std::optional<Error> error) noexcept {
    try {
      done(std::move(error));
    } catch (...) {
      // A listener's failure is not the stream's.
    }
  }

  void run() {
    ThreadPool::set_cancellation_flag(&closed);
    std::vector<Item> batch;
    while (take(batch)) {
      for (Item& item : batch) {
        const bool aborted = closed.load(std::memory_order_relaxed);
        if (item.task) {
          if (!aborted) run_task(item);
          // What the closure owns is let go in order, too.
          item.task = nullptr;
          ended.fetch_add(1, std::memory_order_release);
        } else {
          // Counted first: whoever waits finds the stream idle.
          const Completion done = std::move(item.done);
          ended.fetch_add(1, std::memory_order_release);
          std::optional<Error> error;
          if (aborted) keep_fault(item.name, "ERR_ABORTED", kAborted);
          if (aborted || item.takes_fault) error = take_fault(std::move(item.memory_fault));
          complete(done, std::move(error));
        }
      }
      batch.clear();
    }
  }
};

Stream::Stream(const std::string& instruction_set) : state_(std::make_shared<State>()) {
  state_->kernels = make_kernels(instruction_set, ThreadPool::instance(), state_->scratch);
  sigset_t all, previous;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &previous);
  try {
    thread_ = std::thread([state = state_] { state->run(); });
  } catch (const std::exception& error) {
    pthread_sigmask(SIG_SETMASK, &previous, nullptr);
    throw Error("ERR_WORKER", std::string("the thread of the CPU device could not be started (") +
                                  error.what() + "): raise the limit of threads or close other devices");
  }
  pthread_sigmask(SIG_SETMASK, &previous, nullptr);
  state_->thread_id.store(thread_.get_id());
}

void Stream::submit(const char* name, Task task) {
  state_->push({name, std::move(task), nullptr, false, nullptr});
}

void Stream::on_reached(Completion done) {
  state_->push({"on_reached", nullptr, std::move(done), true, make_memory_fault()});
}

void Stream::synchronize() {
  if (const std::optional<Error> fault = wait_for_end(true)) throw Error(*fault);
}

void Stream::wait() { wait_for_end(false); }

std::optional<Error> Stream::wait_for_end(bool takes_fault) {
  // Shared: the stream's thread may still be inside set_value when the waiting one goes on.
  const auto reached = std::make_shared<std::promise<std::optional<Error>>>();
  state_->push({"wait", nullptr,
                [reached](std::optional<Error> error) { reached->set_value(std::move(error)); }, takes_fault,
                make_memory_fault()});
  return reached->get_future().get();
}

void Stream::close() noexcept {
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->closed.store(true);
    state_->sleeps = false;
  }
  state_->arrived.notify_one();
  const std::lock_guard<std::mutex> lock(join_mutex_);
  if (!thread_.joinable()) return;
  if (runs_on_this_thread()) {
    thread_.detach();
  } else {
    thread_.join();
  }
}

std::uint64_t Stream::queued() const { return state_->queued.load(std::memory_order_acquire); }
std::uint64_t Stream::ended() const { return state_->ended.load(std::memory_order_acquire); }
bool Stream::is_closed() const { return state_->closed.load(); }
bool Stream::runs_on_this_thread() const { return state_->thread_id.load() == std::this_thread::get_id(); }
Scratch& Stream::scratch() { return state_->scratch; }

}  // namespace softmoe::cpu
