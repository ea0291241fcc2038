// What one Node.js environment (the main thread or a worker) owns: its devices, the way back to its
// JavaScript thread, and the constructor of SoftMoEError.
#pragma once

#include <napi.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "core/tensor.h"

namespace softmoe::addon {

class Environment {
 public:
  explicit Environment(Napi::Env env);
  ~Environment() { close(); }
  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  void set_error_class(const Napi::Function& constructor) { error_class_ = Napi::Persistent(constructor); }
  // A SoftMoEError (a plain Error with a code before set_error_class was called).
  Napi::Value make_error(const std::string& code, const std::string& message) const;

  // Opened once; the same device afterwards.
  std::shared_ptr<Device> device(const std::string& kind, int index);

  // A promise that `start` settles later from any thread through the completion it is given; `value` then
  // makes the result on the JavaScript thread. The process stays alive until it is settled.
  using Value = std::function<Napi::Value(Napi::Env)>;
  Napi::Promise promise(const std::function<void(Device::Completion)>& start, Value value);

  // Stops the devices: queued work is dropped, unsettled promises stay unsettled.
  void close();

 private:
  // A promise on its way, made in whole beforehand: a completion must not fail for want of memory.
  struct Settlement {
    Environment* environment;
    Napi::Promise::Deferred deferred;
    Value value;
    std::optional<Error> fault;
    std::shared_ptr<Settlement> self;  // keeps it alive from the completion to the JavaScript thread
  };
  static void settle(Napi::Env env, Napi::Function, void*, Settlement* settlement);
  using ThreadSafeFunction = Napi::TypedThreadSafeFunction<void, Settlement, settle>;

  Napi::Env env_;
  Napi::FunctionReference error_class_;
  ThreadSafeFunction to_javascript_;
  int pending_ = 0;
  bool closed_ = false;
  std::map<std::pair<std::string, int>, std::shared_ptr<Device>> devices_;
};

}  // namespace softmoe::addon
