#include "executor.h"

#include <algorithm>
#include <chrono>

#include "context.h"

namespace softmoe::emulator {
namespace {

thread_local bool insideHostFunctionFlag = false;

}  // namespace

HostFunctionScope::HostFunctionScope() { insideHostFunctionFlag = true; }
HostFunctionScope::~HostFunctionScope() { insideHostFunctionFlag = false; }
bool Executor::insideHostFunction() { return insideHostFunctionFlag; }

std::shared_ptr<Stream> Executor::createStream(Context& context, unsigned flags, int priority, bool legacy) {
  auto stream = std::make_shared<Stream>();
  stream->context = &context;
  stream->flags = flags;
  stream->priority = priority;
  stream->legacy = legacy;
  streams_.push_back(stream);
  return stream;
}

std::uint64_t Executor::submit(Stream& stream, Work work) {
  // The legacy stream waits for every blocking stream, and these wait for it.
  for (const auto& other : streams_) {
    const bool ordered =
        other.get() != &stream && other->context == stream.context && other->completed < other->submitted &&
        ((stream.legacy && other->blocksWithLegacy()) || (other->legacy && stream.blocksWithLegacy()));
    if (ordered) work.after.push_back({other, other->submitted});
  }
  work.order = ++orders_;
  stream.queue.push_back(std::move(work));
  const std::uint64_t position = ++stream.submitted;
  if (mode_ == Execution::thread && !threadStarted_) {
    threadStarted_ = true;
    std::thread([this] { background(); }).detach();
  }
  changed_.notify_all();
  return position;
}

Stream& Executor::firstRunnable(Stream& stream) const {
  for (const StreamPoint& point : stream.queue.front().after)
    if (!point.stream->reached(point.position)) return firstRunnable(*point.stream);
  return stream;
}

void Executor::runHead(DriverLock& lock, Stream& stream) {
  running_ = true;
  const std::uint64_t position = stream.completed + 1;
  const Work work = std::move(stream.queue.front());
  stream.queue.pop_front();
  lock.unlock();
  const cuda::CUresult result = work.run ? work.run() : cuda::CUDA_SUCCESS;
  lock.lock();
  running_ = false;
  stream.completed = std::max(stream.completed, position);  // a fault elsewhere may have dropped it
  if (result != cuda::CUDA_SUCCESS) {
    if (stream.context->fault == cuda::CUDA_SUCCESS) stream.context->fault = result;
    drop(*stream.context);
  }
  forgetDrained();
  changed_.notify_all();
}

void Executor::finish(DriverLock& lock, Stream& stream, std::uint64_t position) {
  while (!stream.reached(position)) {
    if (mode_ == Execution::thread || running_)
      changed_.wait(lock);
    else
      runHead(lock, firstRunnable(stream));
  }
}

void Executor::finishAll(DriverLock& lock, Context& context) {
  const std::vector<std::shared_ptr<Stream>> streams = streams_;
  for (const auto& stream : streams)
    if (stream->context == &context) finish(lock, *stream, stream->submitted);
}

std::shared_ptr<Stream> Executor::unfinishedBlocking(const Context& context) const {
  for (const auto& stream : streams_)
    if (stream->context == &context && stream->blocksWithLegacy() && !stream->reached(stream->submitted))
      return stream;
  return nullptr;
}

void Executor::step(DriverLock& lock, Stream& stream, std::uint64_t position) {
  if (stream.reached(position)) return;
  if (mode_ == Execution::deferred && !running_) {
    runHead(lock, firstRunnable(stream));
  } else {
    lock.unlock();
    std::this_thread::yield();
    lock.lock();
  }
}

void Executor::waitForRunningPiece(DriverLock& lock) {
  changed_.wait(lock, [this] { return !running_; });
}

void Executor::drop(Context& context) {
  for (const auto& stream : streams_) {
    if (stream->context != &context) continue;
    stream->queue.clear();
    stream->completed = stream->submitted;
  }
  changed_.notify_all();
}

void Executor::forgetDrained() {
  const auto drained = [](const std::shared_ptr<Stream>& stream) {
    return stream->destroyed && stream->queue.empty();
  };
  streams_.erase(std::remove_if(streams_.begin(), streams_.end(), drained), streams_.end());
}

void Executor::destroy(Stream& stream) {
  stream.destroyed = true;
  if (!running_) forgetDrained();
}

void Executor::forget(Context& context) {
  drop(context);
  const auto owned = [&](const std::shared_ptr<Stream>& stream) { return stream->context == &context; };
  streams_.erase(std::remove_if(streams_.begin(), streams_.end(), owned), streams_.end());
}

Stream* Executor::oldestWork() const {
  Stream* oldest = nullptr;
  for (const auto& stream : streams_) {
    if (stream->queue.empty()) continue;
    if (!oldest || stream->queue.front().order < oldest->queue.front().order) oldest = stream.get();
  }
  return oldest;
}

void Executor::background() {
  DriverLock lock(driverMutex_);
  while (!stopping_) {
    Stream* stream = oldestWork();
    if (stream)
      runHead(lock, *stream);
    else
      changed_.wait(lock);
  }
  threadStarted_ = false;
  changed_.notify_all();
}

void Executor::stop(DriverLock& lock) {
  stopping_ = true;
  changed_.notify_all();
  changed_.wait_for(lock, std::chrono::seconds(2), [this] { return !threadStarted_; });
}

}  // namespace softmoe::emulator
