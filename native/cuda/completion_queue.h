// A thread that waits for events in the order in which they were recorded and then runs what was to happen.
// Driver callbacks (cuLaunchHostFunc) would be lighter, but nothing may call the driver or wait inside them.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "cuda/driver.h"

namespace softmoe::cuda {

class CompletionQueue {
 public:
  using Action = std::function<void(Result)>;

  CompletionQueue(const Driver& driver, Context context);
  ~CompletionQueue() { close(); }
  CompletionQueue(const CompletionQueue&) = delete;
  CompletionQueue& operator=(const CompletionQueue&) = delete;

  // Runs `action` on the thread once the stream gets here, with the outcome of all work before.
  // Throws if the event cannot be recorded; `action` is then not run.
  void push(Stream stream, Action action);
  // Runs what is queued, then ends the thread and destroys the events.
  void close() noexcept;

 private:
  struct Entry {
    Event event;
    Action action;
  };
  // Shared with the thread: an action may drop the last reference to the device that owns this queue.
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Entry> entries;
    std::vector<Event> idle_events;
    bool closing = false;
  };

  static void work(const Driver& driver, Context context, const std::shared_ptr<State>& state);

  const Driver& driver_;
  std::shared_ptr<State> state_;
  std::thread thread_;
};

}  // namespace softmoe::cuda
