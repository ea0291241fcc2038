// The addon's entry: what was built, devices and the passage of data; operations are in operations.cc.
#include <napi.h>

#include <future>
#include <memory>
#include <optional>
#include <utility>

#include "addon/arguments.h"
#include "addon/environment.h"
#include "addon/graph_handle.h"
#include "addon/operations.h"
#include "cpu/cpu_device.h"

namespace softmoe::addon {

namespace {

using DevicePointer = std::shared_ptr<Device>;

// Bytes of a typed array or ArrayBuffer view; throws when it is detached or shared.
struct HostBytes {
  const void* data;
  std::size_t bytes;

  static HostBytes from(const Argument& argument) {
    if (!argument.value.IsTypedArray()) argument.refuse("a typed array");
    const auto array = argument.value.As<Napi::TypedArray>();
    void* data = nullptr;
    std::size_t length = 0;
    if (napi_get_typedarray_info(array.Env(), array, nullptr, &length, &data, nullptr, nullptr) != napi_ok) {
      argument.refuse("a typed array over an ordinary ArrayBuffer");
    }
    return {data, array.ByteLength()};
  }
};

// uploadTensor(device, shape, dtype, typedArray): the array holds the elements as they are stored.
Napi::Value upload_tensor(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto device = Convert<DevicePointer>::from({info[0], "device"});
    const auto shape = Convert<Shape>::from({info[1], "shape"});
    const auto dtype = Convert<DType>::from({info[2], "dtype"});
    const HostBytes source = HostBytes::from({info[3], "data"});
    const std::size_t wanted = static_cast<std::size_t>(shape.count()) * size_of(dtype);
    if (source.bytes != wanted) {
      throw Error("ERR_SHAPE", "the data has " + std::to_string(source.bytes / size_of(dtype)) +
                                   " elements, shape " + shape.text() + " wants " +
                                   std::to_string(shape.count()) +
                                   (source.bytes == 0 ? " (was the ArrayBuffer transferred away?)" : ""));
    }
    const Tensor tensor = Tensor::empty(device, shape, dtype);
    if (wanted > 0) device->upload(tensor.data(), source.data, wanted);
    return TensorHandle::wrap(info.Env(), tensor);
  });
}

// Node-API's own function ends the process when there is no memory; the language's constructor throws.
Napi::ArrayBuffer array_buffer(Napi::Env env, std::size_t bytes) {
  constexpr std::size_t kSmall = std::size_t{64} << 10;  // below it the process is lost in any case
  if (bytes <= kSmall) return Napi::ArrayBuffer::New(env, bytes);
  try {
    const auto constructor = env.Global().Get("ArrayBuffer").As<Napi::Function>();
    return constructor.New({Napi::Number::New(env, static_cast<double>(bytes))}).As<Napi::ArrayBuffer>();
  } catch (const Napi::Error&) {
    throw Error("ERR_OUT_OF_MEMORY", "JavaScript has no memory for the " + std::to_string(bytes) +
                                         " bytes of a result; read smaller tensors or free memory first");
  }
}

Napi::Value typed_array(Napi::Env env, DType dtype, const std::vector<std::byte>& bytes) {
  Napi::ArrayBuffer buffer = array_buffer(env, bytes.size());
  if (!bytes.empty()) std::memcpy(buffer.Data(), bytes.data(), bytes.size());
  const std::size_t count = bytes.size() / size_of(dtype);
  switch (dtype) {
    case DType::kFloat32:
      return Napi::Float32Array::New(env, count, buffer, 0);
    case DType::kBFloat16:
      return Napi::Uint16Array::New(env, count, buffer, 0);
    case DType::kInt32:
      return Napi::Int32Array::New(env, count, buffer, 0);
  }
  return env.Undefined();
}

// download(tensor): a promise of the elements as they are stored.
Napi::Value download(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const Tensor tensor = Convert<Tensor>::from({info[0], "tensor"});
    const auto bytes = std::make_shared<std::vector<std::byte>>(tensor.bytes());
    return Environment::of(env).promise(
        [&](Device::Completion done) {
          // The closure keeps the target alive; the source needs nothing, memory is ordered by the stream.
          tensor.device()->download(tensor.data(), bytes->data(), bytes->size(),
                                    [bytes, done](std::optional<Error> fault) { done(std::move(fault)); });
        },
        [dtype = tensor.dtype(), bytes](Napi::Env later) { return typed_array(later, dtype, *bytes); });
  });
}

Napi::Value download_sync(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const Tensor tensor = Convert<Tensor>::from({info[0], "tensor"});
    std::vector<std::byte> bytes(tensor.bytes());
    // The bytes are there when the completion is called, which may be later than the stream's end.
    const auto arrived = std::make_shared<std::promise<std::optional<Error>>>();
    tensor.device()->download(
        tensor.data(), bytes.data(), bytes.size(),
        [arrived](std::optional<Error> fault) { arrived->set_value(std::move(fault)); });
    const std::optional<Error> fault = arrived->get_future().get();
    tensor.device()->synchronize();
    if (fault) throw Error(*fault);
    return typed_array(info.Env(), tensor.dtype(), bytes);
  });
}

// describe(tensor): [dtype, ...shape].
Napi::Value describe(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const Tensor tensor = Convert<Tensor>::from({info[0], "tensor"});
    Napi::Array result = Napi::Array::New(info.Env());
    result.Set(0U, name_of(tensor.dtype()));
    for (int i = 0; i < tensor.shape().rank(); ++i) {
      result.Set(static_cast<std::uint32_t>(i + 1), static_cast<double>(tensor.shape()[i]));
    }
    return result;
  });
}

Napi::Value dispose(const Napi::CallbackInfo& info) {
  if (TensorHandle* handle = TensorHandle::unwrap(info[0])) handle->dispose();
  return info.Env().Undefined();
}

Napi::Value open_device(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto device = Convert<DevicePointer>::from({info[0], "device"});
    return Napi::String::New(info.Env(), device->description());
  });
}

Napi::Value synchronize(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto device = Convert<DevicePointer>::from({info[0], "device"});
    return Environment::of(env).promise([&](Device::Completion done) { device->on_reached(std::move(done)); },
                                        [](Napi::Env later) { return later.Undefined(); });
  });
}

Napi::Value synchronize_sync(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    Convert<DevicePointer>::from({info[0], "device"})->synchronize();
    return info.Env().Undefined();
  });
}

Napi::Value memory_usage(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const MemoryUsage usage = Convert<DevicePointer>::from({info[0], "device"})->memory_usage();
    Napi::Object result = Napi::Object::New(info.Env());
    result.Set("tensors", static_cast<double>(usage.tensors));
    result.Set("bytes", static_cast<double>(usage.bytes));
    result.Set("cachedBytes", static_cast<double>(usage.cached_bytes));
    result.Set("peakBytes", static_cast<double>(usage.peak_bytes));
    result.Set("systemAllocations", static_cast<double>(usage.system_allocations));
    return result;
  });
}

Napi::Value empty_cache(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    Convert<DevicePointer>::from({info[0], "device"})->empty_cache();
    return info.Env().Undefined();
  });
}

std::shared_ptr<cuda::CudaDevice> cuda_device(const Napi::CallbackInfo& info) {
  const auto device =
      std::dynamic_pointer_cast<cuda::CudaDevice>(Convert<DevicePointer>::from({info[0], "device"}));
  if (!device) throw Error("ERR_DEVICE", "only the device 'cuda' records graphs");
  return device;
}

// beginCapture(device): until endCapture, operations are recorded instead of run.
Napi::Value begin_capture(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    cuda_device(info)->begin_capture();
    return info.Env().Undefined();
  });
}

Napi::Value end_capture(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] { return GraphHandle::wrap(info.Env(), cuda_device(info)); });
}

Napi::Value replay(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    GraphHandle::unwrap(info[0]).replay();
    return info.Env().Undefined();
  });
}

Napi::Value dispose_graph(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    GraphHandle::unwrap(info[0]).dispose();
    return info.Env().Undefined();
  });
}

Napi::Value set_threads(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const std::int64_t threads = Convert<std::int64_t>::from({info[0], "threads"});
    if (threads < 1 || threads > 1024) {
      throw Error("ERR_INVALID_ARGUMENT", "threads is " + std::to_string(threads) + "; wanted 1 to 1024");
    }
    cpu::set_threads(static_cast<int>(threads));
    return info.Env().Undefined();
  });
}

Napi::Value set_error_class(const Napi::CallbackInfo& info) {
  Environment::of(info.Env()).set_error_class(info[0].As<Napi::Function>());
  return info.Env().Undefined();
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Environment(env));
  exports.Set("version", SOFTMOE_VERSION);
  exports.Set("builtBy", SOFTMOE_BUILT_BY);
  const auto add = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  add("setErrorClass", set_error_class);
  add("openDevice", open_device);
  add("uploadTensor", upload_tensor);
  add("download", download);
  add("downloadSync", download_sync);
  add("describe", describe);
  add("dispose", dispose);
  add("synchronize", synchronize);
  add("synchronizeSync", synchronize_sync);
  add("memoryUsage", memory_usage);
  add("emptyCache", empty_cache);
  add("beginCapture", begin_capture);
  add("endCapture", end_capture);
  add("replay", replay);
  add("disposeGraph", dispose_graph);
  add("setThreads", set_threads);
  export_operations(env, exports);
  return exports;
}

}  // namespace

}  // namespace softmoe::addon

static Napi::Object Init(Napi::Env env, Napi::Object exports) { return softmoe::addon::init(env, exports); }

NODE_API_MODULE(softmoe, Init)
