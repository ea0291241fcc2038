// The one emulated driver of this process, and the frame around every exported function.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "calls.h"
#include "context.h"
#include "driver_error.h"
#include "executor.h"
#include "journal.h"
#include "registry.h"
#include "settings.h"

namespace softmoe::emulator {

class Driver {
 public:
  static Driver& get();
  // Forgets everything and reads the environment again, as a new process would.
  static void reset();

  explicit Driver(Settings chosen);

  const Settings settings;
  CallLedger calls;
  Journal reports;
  Journal counters;
  std::mutex mutex;  // guards all that follows
  Executor executor;
  bool initialised = false;
  std::map<int, std::shared_ptr<Context>> primaryContexts;  // by device
  Registry<cuda::CUcontext, Context> contexts;
  Registry<cuda::CUmodule, Module> modules;
  Registry<cuda::CUfunction, Function> functions;
  Registry<cuda::CUstream, Stream> streams;
  Registry<cuda::CUevent, Event> events;
  Registry<cuda::CUgraph, Graph> graphs;
  Registry<cuda::CUgraphExec, Graph> graphExecs;
  std::vector<std::shared_ptr<Capture>> captures;  // under way

  // The context at the top of the calling thread's stack. Throws INVALID_CONTEXT, CONTEXT_IS_DESTROYED.
  std::shared_ptr<Context> currentContext();
  // Like it, but null instead of a throw.
  std::shared_ptr<Context> currentContextOrNull();
  // The stream of a handle, the legacy stream for null. Throws INVALID_HANDLE.
  std::shared_ptr<Stream> stream(Context& context, cuda::CUstream handle);
  void checkDevice(cuda::CUdevice device) const;
  // Ends the work of a context and everything it owns.
  void destroyContext(DriverLock& lock, Context& context);
  // A finding of the driver itself, in the form of a checker report.
  void report(const std::string& kind, const std::string& message, std::uint64_t address = 0);
  // What the program has not given back, and how often it called.
  void writeExitReports();

  static std::vector<cuda::CUcontext>& contextStack();  // of the calling thread

 private:
  void writeLeaks(Journal& journal, const Context& context);
};

// True for the codes that leave a context unusable.
inline bool isSticky(cuda::CUresult code) { return code >= 700 && code <= 719; }

enum class Needs {
  nothing,  // works before cuInit
  driver,   // cuInit was called
  context,  // a current context without a fault
  release,  // a current context; runs in spite of a fault, so that what it frees is known as freed
};

// Counts the call, injects the failure asked for, checks what the call needs, takes the driver's lock and
// turns exceptions into result codes. `body(driver, lock)` returns a CUresult.
template <class Body>
cuda::CUresult driverCall(const char* name, Needs needs, Body body, const char* category = nullptr) noexcept;

// As driverCall, for calls that want the current context: `body(driver, lock, context)`. A fault that shows
// up during the call is what the call returns.
template <class Body>
cuda::CUresult contextCall(const char* name, Body body, const char* category = nullptr,
                           Needs needs = Needs::context) noexcept;

// The part of driverCall that does not depend on the body.
cuda::CUresult enterCall(Driver& driver, DriverLock& lock, const char* name, Needs needs,
                         const char* category);
cuda::CUresult currentExceptionAsResult(const char* name) noexcept;

template <class Body>
cuda::CUresult driverCall(const char* name, Needs needs, Body body, const char* category) noexcept {
  try {
    Driver& driver = Driver::get();
    DriverLock lock(driver.mutex);
    const cuda::CUresult refused = enterCall(driver, lock, name, needs, category);
    return refused != cuda::CUDA_SUCCESS ? refused : body(driver, lock);
  } catch (...) {
    return currentExceptionAsResult(name);
  }
}

template <class Body>
cuda::CUresult contextCall(const char* name, Body body, const char* category, Needs needs) noexcept {
  const auto framed = [&](Driver& driver, DriverLock& lock) {
    const std::shared_ptr<Context> context = driver.currentContext();
    const cuda::CUresult result = body(driver, lock, *context);
    return context->fault != cuda::CUDA_SUCCESS ? context->fault : result;
  };
  return driverCall(name, needs, framed, category);
}

}  // namespace softmoe::emulator
