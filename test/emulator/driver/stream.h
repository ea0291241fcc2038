// Streams and the work queued on them. A point in a stream's life is (stream, position): the position-th
// piece of work queued on it. Events, waits and the implicit order of the legacy stream are all "after that
// point".
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cuda_types.h"

namespace softmoe::emulator {

struct Context;
struct Capture;
struct Stream;

struct StreamPoint {
  std::shared_ptr<Stream> stream;
  std::uint64_t position = 0;
};

struct Work {
  std::string what;                     // for reports: the driver function that queued it
  std::function<cuda::CUresult()> run;  // called without the driver's lock; may be empty
  std::vector<StreamPoint> after;
  std::uint64_t order = 0;  // of submission, over all streams
};

struct Stream {
  Context* context = nullptr;
  unsigned flags = 0;
  int priority = 0;
  bool legacy = false;
  bool destroyed = false;  // by the program; its queue still runs
  std::deque<Work> queue;
  std::uint64_t submitted = 0;
  std::uint64_t completed = 0;
  std::shared_ptr<Capture> capture;  // while its work goes into a graph

  bool reached(std::uint64_t position) const { return completed >= position; }
  bool blocksWithLegacy() const { return (flags & cuda::CU_STREAM_NON_BLOCKING) == 0; }
};

}  // namespace softmoe::emulator
