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

void Environment::settle(Napi::Env env, Napi::Function, void*, Settlement* settlement) {
  const std::shared_ptr<Settlement> owned = std::move(settlement->self);
  if (env == nullptr) return;
  Environment& self = *owned->environment;
  if (--self.pending_ == 0) self.to_javascript_.Unref(env);
  if (owned->fault) {
    owned->deferred.Reject(self.make_error(owned->fault->code(), owned->fault->what()));
    return;
  }
  try {
    owned->deferred.Resolve(owned->value(env));
  } catch (const Napi::Error& error) {
    owned->deferred.Reject(error.Value());
  } catch (const Error& error) {
    owned->deferred.Reject(self.make_error(error.code(), error.what()));
  }
}

Napi::Promise Environment::promise(const std::function<void(Device::Completion)>& start, Value value) {
  const auto settlement = std::make_shared<Settlement>(
      Settlement{this, Napi::Promise::Deferred::New(env_), std::move(value), std::nullopt, nullptr});
  if (pending_++ == 0) to_javascript_.Ref(env_);
  try {
    start([settlement](std::optional<Error> fault) {
      settlement->fault = std::move(fault);
      settlement->self = settlement;
      // Refused only while the environment closes: nobody waits any more.
      if (settlement->environment->to_javascript_.NonBlockingCall(settlement.get()) != napi_ok)
        settlement->self = nullptr;
    });
  } catch (...) {
    if (--pending_ == 0) to_javascript_.Unref(env_);
    throw;
  }
  return settlement->deferred.Promise();
}

void Environment::close() {
  if (closed_) return;
  closed_ = true;
  for (auto& [key, device] : devices_) device->close();
  devices_.clear();
  to_javascript_.Abort();
}

}  // namespace softmoe::addon
