// JavaScript's hold on a captured CUDA graph.
#pragma once

#include <napi.h>

#include <memory>
#include <utility>

#include "cuda/cuda_device.h"

namespace softmoe::addon {

class GraphHandle {
 public:
  // Ends the capture of `device`.
  static Napi::Value wrap(Napi::Env env, const std::shared_ptr<cuda::CudaDevice>& device) {
    auto* handle = new GraphHandle(device, device->end_capture());
    return Napi::External<GraphHandle>::New(env, handle,
                                            [](Napi::BasicEnv, GraphHandle* owned) { delete owned; });
  }

  static GraphHandle& unwrap(const Napi::Value& value) {
    if (!value.IsExternal()) throw Error("ERR_INVALID_ARGUMENT", "the graph is of another type");
    return *value.As<Napi::External<GraphHandle>>().Data();
  }

  void replay() const {
    if (!graph_) throw Error("ERR_DISPOSED", "this graph was disposed");
    device_->replay(*graph_);
  }

  void dispose() { graph_.reset(); }

 private:
  GraphHandle(std::shared_ptr<cuda::CudaDevice> device, std::unique_ptr<cuda::Graph> graph)
      : device_(std::move(device)), graph_(std::move(graph)) {}

  std::shared_ptr<cuda::CudaDevice> device_;
  std::unique_ptr<cuda::Graph> graph_;
};

}  // namespace softmoe::addon
