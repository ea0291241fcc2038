// Runs queued work in stream order, one piece at a time.
//
// Deferred: nothing runs until a thread waits for a point, and then only what that point needs, so that work
// whose order was left open comes as late as it may. Thread: one background thread runs pieces in the order
// in which they were queued. All members want the driver's lock; a piece itself runs without it.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "settings.h"
#include "stream.h"

namespace softmoe::emulator {

using DriverLock = std::unique_lock<std::mutex>;

class Executor {
 public:
  // `driverMutex` is the driver's lock, which the background thread takes.
  Executor(Execution mode, std::mutex& driverMutex) : mode_(mode), driverMutex_(driverMutex) {}

  std::shared_ptr<Stream> createStream(Context& context, unsigned flags, int priority, bool legacy);
  // Queues work; returns its position.
  std::uint64_t submit(Stream& stream, Work work);
  // Blocks until the stream has reached the position or its context has a fault.
  void finish(DriverLock& lock, Stream& stream, std::uint64_t position);
  void finishAll(DriverLock& lock, Context& context);
  // A stream with unfinished work that the legacy stream of the context would wait for, itself included, or
  // null.
  std::shared_ptr<Stream> unfinishedBlocking(const Context& context) const;
  // Deferred: runs the next piece that the point needs. Thread: only lets the background thread on.
  void step(DriverLock& lock, Stream& stream, std::uint64_t position);
  // Blocks until no piece is running at this moment.
  void waitForRunningPiece(DriverLock& lock);
  // Drops everything queued in a context, as after a fault; waits may go on.
  void drop(Context& context);
  // The program destroyed the stream; what is queued on it still runs.
  void destroy(Stream& stream);
  // No stream of the context is used again.
  void forget(Context& context);
  // The background thread ends after the piece it runs; waits two seconds at most.
  void stop(DriverLock& lock);

  static bool insideHostFunction();

 private:
  Stream& firstRunnable(Stream& stream) const;
  void runHead(DriverLock& lock, Stream& stream);
  Stream* oldestWork() const;
  void background();
  void forgetDrained();

  const Execution mode_;
  std::mutex& driverMutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<Stream>> streams_;
  std::uint64_t orders_ = 0;
  bool running_ = false;
  bool stopping_ = false;
  bool threadStarted_ = false;
};

// Marks the calling thread as one that runs a program's host function, in which driver calls are forbidden.
class HostFunctionScope {
 public:
  HostFunctionScope();
  ~HostFunctionScope();
  HostFunctionScope(const HostFunctionScope&) = delete;
  HostFunctionScope& operator=(const HostFunctionScope&) = delete;
};

}  // namespace softmoe::emulator
