#include "cuda/completion_queue.h"

#include <new>
#include <utility>

namespace softmoe::cuda {

CompletionQueue::CompletionQueue(const Driver& driver, Context context)
    : driver_(driver),
      state_(std::make_shared<State>()),
      thread_([&driver, context, state = state_] { work(driver, context, state); }) {}

void CompletionQueue::push(Stream stream, Action action) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  Event event = nullptr;
  if (state_->idle_events.empty()) {
    driver_.check(driver_.event_create(&event, kEventDisableTiming), "creating an event");
  } else {
    event = state_->idle_events.back();
    state_->idle_events.pop_back();
  }
  const Result recorded = driver_.event_record(event, stream);
  if (recorded != kSuccess) {
    state_->idle_events.push_back(event);
    throw driver_.error(recorded, "recording an event");
  }
  state_->entries.push_back({event, std::move(action)});
  state_->changed.notify_one();
}

void CompletionQueue::work(const Driver& driver, Context context, const std::shared_ptr<State>& state) {
  driver.context_set_current(context);
  std::unique_lock<std::mutex> lock(state->mutex);
  for (;;) {
    state->changed.wait(lock, [&] { return state->closing || !state->entries.empty(); });
    if (state->entries.empty()) return;
    Entry entry = std::move(state->entries.front());
    state->entries.pop_front();
    lock.unlock();
    const Result result = driver.event_synchronize(entry.event);
    entry.action(result);
    entry.action = nullptr;
    lock.lock();
    try {
      state->idle_events.push_back(entry.event);
    } catch (const std::bad_alloc&) {
      driver.event_destroy(entry.event);
    }
  }
}

void CompletionQueue::close() noexcept {
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->closing = true;
    state_->changed.notify_one();
  }
  if (!thread_.joinable()) return;
  if (thread_.get_id() == std::this_thread::get_id()) {
    thread_.detach();
    return;
  }
  thread_.join();
  for (const Event event : state_->idle_events) driver_.event_destroy(event);
  state_->idle_events.clear();
}

}  // namespace softmoe::cuda
