#include "addon/environment.h"

#include "cpu/cpu_device.h"
#include "cuda/cuda_device.h"

namespace softmoe::addon {

Environment::Environment(Napi::Env env) : env_(env) {
  to_javascript_ = ThreadSafeFunction::New(env, "softmoe", 0, 1, static_cast<void*>(nullptr),
                                           [](Napi::Env, void*, void*) {});
  to_javascript_.Unref(env);  // an idle device must not keep the process alive
  // Registered after the thread-safe function, so it runs before that is torn down.
  env.AddCleanupHook([](Environment* self) { self->close(); }, this);
}

Napi::Value Environment::make_error(const std::string& code, const std::string& message) const {
  if (!error_class_.IsEmpty()) {
    return error_class_.Value().New({Napi::String::New(env_, code), Napi::String::New(env_, message)});
  }
  Napi::Error error = Napi::Error::New(env_, message);
  error.Set("code", Napi::String::New(env_, code));
  return error.Value();
}

std::shared_ptr<Device> Environment::device(const std::string& kind, int index) {
  if (closed_) throw Error("ERR_NO_DEVICE", "this environment is shutting down; no device can be opened");
  const auto key = std::make_pair(kind, index);
  const auto found = devices_.find(key);
  if (found != devices_.end()) return found->second;
  std::shared_ptr<Device> opened;
  if (kind == "cuda") {
    opened = cuda::CudaDevice::open(index);
  } else {
    opened = cpu::open_cpu_device();
  }
  devices_.emplace(key, opened);
  return opened;
}

void Environment::call_task(Napi::Env env, Napi::Function, void*, JavaScriptTask* task) {
  const std::unique_ptr<JavaScriptTask> owned(task);
  if (env != nullptr) (*owned)(env);
}

Napi::Promise Environment::promise(const std::function<void(Device::Completion)>& start, Value value) {
  const auto deferred = std::make_shared<Napi::Promise::Deferred>(Napi::Promise::Deferred::New(env_));
  if (pending_++ == 0) to_javascript_.Ref(env_);
  const auto settle = [this, deferred, value = std::move(value)](const std::optional<Error>& fault) {
    return new JavaScriptTask([this, deferred, value, fault](Napi::Env env) {
      if (--pending_ == 0) to_javascript_.Unref(env);
      if (fault) {
        deferred->Reject(make_error(fault->code(), fault->what()));
        return;
      }
      try {
        deferred->Resolve(value(env));
      } catch (const Napi::Error& error) {
        deferred->Reject(error.Value());
      } catch (const Error& error) {
        deferred->Reject(make_error(error.code(), error.what()));
      }
    });
  };
  try {
    start([this, settle](std::optional<Error> fault) {
      JavaScriptTask* task = settle(fault);
      // Refused only while the environment closes: nobody waits any more.
      if (to_javascript_.NonBlockingCall(task) != napi_ok) delete task;
    });
  } catch (...) {
    if (--pending_ == 0) to_javascript_.Unref(env_);
    throw;
  }
  return deferred->Promise();
}

void Environment::close() {
  if (closed_) return;
  closed_ = true;
  for (auto& [key, device] : devices_) device->close();
  devices_.clear();
  to_javascript_.Abort();
}

}  // namespace softmoe::addon
