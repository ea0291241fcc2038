// CUDA graphs: the launches of a function, recorded once and queued again as one.
#include <utility>

#include "cuda/cuda_device.h"

namespace softmoe::cuda {

void CudaDevice::begin_capture() {
  const std::lock_guard<std::mutex> lock(mutex_);
  require_open("a graph");
  if (!driver_.capture_begin || !driver_.graph_launch) {
    throw Error("ERR_DRIVER", "the driver " + driver_.path + " has no CUDA graphs: update the NVIDIA driver");
  }
  if (capturing_) throw Error("ERR_INVALID_ARGUMENT", "a graph is being captured already: end it first");
  // An earlier fault is not the graph's.
  if (const std::optional<Error> fault = take_fault()) throw Error(*fault);
  make_current();
  driver_.check(driver_.capture_begin(stream_, kCaptureModeRelaxed), "beginning a graph");
  memory_.begin_capture();
  launcher_->set_capturing(true);
  capturing_ = true;
}

std::unique_ptr<Graph> CudaDevice::end_capture() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!capturing_) throw Error("ERR_INVALID_ARGUMENT", "no graph is being captured: begin one first");
  capturing_ = false;
  launcher_->set_capturing(false);
  GraphBlocks blocks = memory_.end_capture();
  GraphTemplate graph = nullptr;
  GraphExecutable executable = nullptr;
  Result result = driver_.context_set_current(context_);
  if (result == kSuccess) result = driver_.capture_end(stream_, &graph);
  // A call that failed may have left the stream recording; otherwise this does nothing.
  if (result != kSuccess) driver_.capture_end(stream_, &graph);
  if (result == kSuccess) result = driver_.graph_instantiate(&executable, graph, 0);
  if (graph) driver_.graph_destroy(graph);
  const std::optional<Error> fault = take_fault();
  if (result != kSuccess || fault) {
    if (executable) driver_.graph_executable_destroy(executable);
    memory_.release_graph(blocks);
    if (!fault) record_asynchronous_fault(is_sticky(result) ? result : kSuccess);
    throw fault ? Error(*fault) : driver_.error(result, "recording a graph");
  }
  return std::make_unique<Graph>(Graph::Key{}, shared_from_this(), executable, std::move(blocks));
}

void CudaDevice::replay(const Graph& graph) {
  submit("graph", [this, &graph](Kernels&) {
    driver_.check(driver_.graph_launch(graph.executable_, stream_), "replaying a graph");
  });
}

void CudaDevice::release_graph(Graph& graph) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  driver_.context_set_current(context_);
  // A replay that is still queued ends before the driver frees the graph; the memory follows the stream's
  // order.
  driver_.graph_executable_destroy(graph.executable_);
  memory_.release_graph(graph.blocks_);
}

Graph::~Graph() { device_->release_graph(*this); }

}  // namespace softmoe::cuda
