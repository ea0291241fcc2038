// What a device's primary context owns: memory, modules, streams, events and graphs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "../ptx/engine.h"
#include "stream.h"

namespace softmoe::emulator {

struct Module {
  Context* context = nullptr;
  std::shared_ptr<ptxemu::Memory> memory;  // outlives the code, whose variables lie in it
  std::unique_ptr<ptxemu::Module> code;
  std::string target;
  std::map<std::string, cuda::CUfunction> functions;  // handles given out so far
};

struct Function {
  std::shared_ptr<Module> module;
  const ptxemu::Kernel* kernel = nullptr;
  int maxDynamicShared = 0;  // bytes; cuFuncSetAttribute raises it
  int sharedCarveout = -1;
};

// How far each stream of a capture has come, as seen from one of them: the transitive "happens before".
using CaptureClock = std::map<const Stream*, std::uint64_t>;

struct Event {
  Context* context = nullptr;
  unsigned flags = 0;
  bool recorded = false;
  StreamPoint point;
  std::shared_ptr<double> seconds;   // when the recording ran
  std::shared_ptr<Capture> capture;  // recorded while its stream was captured
  CaptureClock clock;
};

struct GraphNode {
  std::string what;
  std::function<cuda::CUresult()> run;
};

struct Graph {
  Context* context = nullptr;
  std::vector<GraphNode> nodes;  // in the order of capture, which respects every dependency
};

struct Capture {
  cuda::CUstreamCaptureMode mode = cuda::CU_STREAM_CAPTURE_MODE_GLOBAL;
  std::thread::id thread;
  const Stream* origin = nullptr;
  bool invalidated = false;
  bool ended = false;
  std::shared_ptr<Graph> graph;
  std::map<const Stream*, CaptureClock> clocks;  // of every stream that takes part
};

struct DeviceBlock {
  std::size_t bytes = 0;
  bool freeQueued = false;  // a stream-ordered free is on its way
};

struct HostBlock {
  std::size_t bytes = 0;
  std::shared_ptr<void> owned;  // null: registered memory of the program
};

struct Context {
  int device = 0;
  cuda::CUcontext handle = nullptr;
  unsigned references = 0;
  cuda::CUresult fault = cuda::CUDA_SUCCESS;  // stays until the context is destroyed
  std::shared_ptr<ptxemu::Memory> memory;
  std::map<cuda::CUdeviceptr, DeviceBlock> blocks;
  std::size_t blockBytes = 0;
  std::size_t peakBytes = 0;
  std::map<void*, HostBlock> hostBlocks;
  std::shared_ptr<Stream> legacy;
  std::uint64_t poolReleaseThreshold = 0;
};

}  // namespace softmoe::emulator
