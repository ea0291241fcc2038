// What V8 is told of the memory of tensors, so that it collects those that were forgotten.
//
// V8 marks the whole heap whenever it has been told of 64 MiB more than after the last time. A training step
// makes and disposes gradients of any size: told of each, V8 would mark at every step, on the cores that
// compute. So it is told of the most that lived lately, not of what is disposed and made again; but as soon
// as the collector itself frees a tensor, V8 has the true number.
#pragma once

#include <napi.h>

#include <algorithm>
#include <cstdint>

namespace softmoe::addon {

class ReportedMemory {
 public:
  // Of the isolate, which stays on its thread.
  static ReportedMemory& of_thread() {
    thread_local ReportedMemory memory;
    return memory;
  }

  void took(Napi::BasicEnv env, std::int64_t bytes) {
    live_ += bytes;
    most_ = std::max(most_, live_);
    if (live_ > reported_) report(env, live_);
    if (++taken_ % kLately == 0) {
      report(env, most_);
      most_ = live_;
    }
  }
  void disposed(std::int64_t bytes) { live_ -= bytes; }
  void collected(Napi::BasicEnv env, std::int64_t bytes) {
    live_ -= bytes;
    report(env, live_);
  }

 private:
  // Tensors taken, more than a training step takes.
  static constexpr std::int64_t kLately = 8192;

  void report(Napi::BasicEnv env, std::int64_t bytes) {
    Napi::MemoryManagement::AdjustExternalMemory(env, bytes - reported_);
    reported_ = bytes;
  }

  std::int64_t live_ = 0, most_ = 0, reported_ = 0, taken_ = 0;
};

}  // namespace softmoe::addon
