// Exported functions: graphs made by stream capture. Launching one queues its nodes in the order of capture.
#include "capture.h"
#include "cuda_api.h"
#include "driver.h"

using namespace softmoe::emulator;
using namespace softmoe::emulator::cuda;

CUresult cuStreamBeginCapture_v2(CUstream handle, CUstreamCaptureMode mode) {
  return contextCall("cuStreamBeginCapture_v2", [&](Driver& driver, DriverLock&, Context& context) {
    if (mode < CU_STREAM_CAPTURE_MODE_GLOBAL || mode > CU_STREAM_CAPTURE_MODE_RELAXED)
      return CUDA_ERROR_INVALID_VALUE;
    beginCapture(driver, *driver.stream(context, handle), mode);
    return CUDA_SUCCESS;
  });
}

CUresult cuStreamEndCapture(CUstream handle, CUgraph* graph) {
  return contextCall("cuStreamEndCapture", [&](Driver& driver, DriverLock&, Context& context) {
    if (!graph) return CUDA_ERROR_INVALID_VALUE;
    *graph = nullptr;
    *graph = driver.graphs.add(endCapture(driver, *driver.stream(context, handle)));
    return CUDA_SUCCESS;
  });
}

CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
  return contextCall("cuStreamIsCapturing", [&](Driver& driver, DriverLock&, Context& context) {
    if (!status) return CUDA_ERROR_INVALID_VALUE;
    const std::shared_ptr<Stream> stream = driver.stream(context, handle);
    *status = !stream->capture               ? CU_STREAM_CAPTURE_STATUS_NONE
              : stream->capture->invalidated ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                             : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return CUDA_SUCCESS;
  });
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long flags) {
  return contextCall("cuGraphInstantiateWithFlags", [&](Driver& driver, DriverLock&, Context&) {
    if (!executable || flags > 15) return CUDA_ERROR_INVALID_VALUE;
    *executable = driver.graphExecs.add(std::make_shared<Graph>(*driver.graphs.get(graph)));
    return CUDA_SUCCESS;
  });
}

CUresult cuGraphLaunch(CUgraphExec executable, CUstream handle) {
  return contextCall("cuGraphLaunch", [&](Driver& driver, DriverLock&, Context& context) {
    const std::shared_ptr<Graph> graph = driver.graphExecs.get(executable);
    const std::shared_ptr<Stream> stream = driver.stream(context, handle);
    require(graph->context == &context, CUDA_ERROR_INVALID_HANDLE, "the graph belongs to another context");
    for (const GraphNode& node : graph->nodes) enqueue(driver, *stream, node.what, node.run);
    return CUDA_SUCCESS;
  });
}

CUresult cuGraphDestroy(CUgraph graph) {
  const auto body = [&](Driver& driver, DriverLock&, Context&) {
    driver.graphs.take(graph);
    return CUDA_SUCCESS;
  };
  return contextCall("cuGraphDestroy", body, nullptr, Needs::release);
}

CUresult cuGraphExecDestroy(CUgraphExec executable) {
  const auto body = [&](Driver& driver, DriverLock&, Context&) {
    driver.graphExecs.take(executable);
    return CUDA_SUCCESS;
  };
  return contextCall("cuGraphExecDestroy", body, nullptr, Needs::release);
}
