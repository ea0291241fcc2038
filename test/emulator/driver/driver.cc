#include "driver.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace softmoe::emulator {
namespace {

std::mutex& instanceMutex() {
  static std::mutex mutex;
  return mutex;
}

// Lives until the process ends, as a program's threads may call at any time.
std::unique_ptr<Driver>& instance() {
  static std::unique_ptr<Driver>& holder = *std::make_unique<std::unique_ptr<Driver>>().release();
  return holder;
}

// Runs when the process ends or the library is closed.
struct ExitReporter {
  ~ExitReporter() {
    if (Driver* driver = instance().get()) {
      DriverLock lock(driver->mutex);
      driver->executor.stop(lock);
      driver->writeExitReports();
    }
  }
};

}  // namespace

Driver& Driver::get() {
  const std::lock_guard<std::mutex> lock(instanceMutex());
  auto& driver = instance();
  if (!driver) {
    driver = std::make_unique<Driver>(Settings::fromEnvironment());
    static const ExitReporter reporter;
  }
  return *driver;
}

void Driver::reset() {
  const std::lock_guard<std::mutex> lock(instanceMutex());
  auto& driver = instance();
  if (!driver) return;
  {
    DriverLock driverLock(driver->mutex);
    driver->executor.stop(driverLock);
    driver->writeExitReports();
  }
  contextStack().clear();
  driver.reset();
}

Driver::Driver(Settings chosen)
    : settings(std::move(chosen)),
      calls(settings.faults, settings.faultControl),
      reports(settings.reports),
      counters(settings.counters),
      executor(settings.execution, mutex) {}

std::vector<cuda::CUcontext>& Driver::contextStack() {
  thread_local std::vector<cuda::CUcontext> stack;
  return stack;
}

std::shared_ptr<Context> Driver::currentContextOrNull() {
  const auto& stack = contextStack();
  return stack.empty() ? nullptr : contexts.find(stack.back());
}

std::shared_ptr<Context> Driver::currentContext() {
  require(!contextStack().empty() && contextStack().back() != nullptr, cuda::CUDA_ERROR_INVALID_CONTEXT,
          "no context is current to this thread");
  auto context = currentContextOrNull();
  require(context != nullptr, cuda::CUDA_ERROR_CONTEXT_IS_DESTROYED, "the current context was destroyed");
  return context;
}

std::shared_ptr<Stream> Driver::stream(Context& context, cuda::CUstream handle) {
  const auto number = reinterpret_cast<std::uintptr_t>(handle);
  if (number == 0 || number == cuda::streamLegacy) return context.legacy;
  require(number != cuda::streamPerThread, cuda::CUDA_ERROR_NOT_SUPPORTED,
          "the per-thread default stream is not emulated");
  auto stream = streams.get(handle);
  require(stream->context == &context, cuda::CUDA_ERROR_INVALID_HANDLE,
          "the stream belongs to another context");
  return stream;
}

void Driver::checkDevice(cuda::CUdevice device) const {
  require(device >= 0 && device < settings.devices, cuda::CUDA_ERROR_INVALID_DEVICE, "no such device");
}

void Driver::report(const std::string& kind, const std::string& message, std::uint64_t address) {
  JsonObject json;
  json.add("kind", kind).add("message", message).add("address", address);
  reports.write(kind + ": " + message, json.text());
}

void Driver::destroyContext(DriverLock& lock, Context& context) {
  const std::shared_ptr<Context> keep = primaryContexts.at(context.device);
  executor.finishAll(lock, context);
  executor.waitForRunningPiece(lock);
  Journal leaks(settings.leaks);
  writeLeaks(leaks, context);
  const auto owned = [&](const auto& object) { return object.context == &context; };
  functions.removeIf([&](const Function& function) { return function.module->context == &context; });
  graphExecs.removeIf(owned);
  graphs.removeIf(owned);
  events.removeIf(owned);
  streams.removeIf(owned);
  modules.removeIf(owned);
  executor.forget(context);
  contexts.take(context.handle);
  primaryContexts.erase(context.device);
}

void Driver::writeLeaks(Journal& journal, const Context& context) {
  if (!journal.enabled() || context.fault != cuda::CUDA_SUCCESS) return;
  const auto leak = [&](const char* what, unsigned long long bytes, std::uintptr_t handle) {
    std::string text = std::string("leak: ") + what;
    if (bytes) text += " of " + std::to_string(bytes) + " bytes";
    JsonObject json;
    json.add("kind", "leak").add("what", what).add("bytes", bytes).add("handle", handle);
    journal.write(text, json.text());
  };
  for (const auto& [address, block] : context.blocks)
    if (!block.freeQueued) leak("device memory", block.bytes, address);
  for (const auto& [address, block] : context.hostBlocks)
    leak(block.owned ? "pinned host memory" : "registered host memory", block.bytes,
         reinterpret_cast<std::uintptr_t>(address));
  const auto handles = [&](const char* what, const auto& registry) {
    for (const auto& [handle, object] : registry.all())
      if (object->context == &context) leak(what, 0, reinterpret_cast<std::uintptr_t>(handle));
  };
  handles("stream", streams);
  handles("event", events);
  handles("module", modules);
  handles("graph", graphs);
  handles("executable graph", graphExecs);
}

void Driver::writeExitReports() {
  Journal leaks(settings.leaks);
  for (const auto& [device, context] : primaryContexts) writeLeaks(leaks, *context);
  Journal(settings.calls).write("driver calls: " + calls.json(), calls.json());
}

cuda::CUresult enterCall(Driver& driver, DriverLock& lock, const char* name, Needs needs,
                         const char* category) {
  const cuda::CUresult injected = driver.calls.count(name, category);
  if (injected != cuda::CUDA_SUCCESS) {
    const std::shared_ptr<Context> context = driver.currentContextOrNull();
    if (context && isSticky(injected) && context->fault == cuda::CUDA_SUCCESS) {
      driver.executor.waitForRunningPiece(lock);
      context->fault = injected;
      driver.executor.drop(*context);
    }
    return injected;
  }
  if (needs == Needs::nothing) return cuda::CUDA_SUCCESS;
  if (Executor::insideHostFunction()) return cuda::CUDA_ERROR_NOT_PERMITTED;
  if (!driver.initialised) return cuda::CUDA_ERROR_NOT_INITIALIZED;
  if (needs == Needs::context) return driver.currentContext()->fault;
  return cuda::CUDA_SUCCESS;
}

cuda::CUresult currentExceptionAsResult(const char* name) noexcept {
  try {
    throw;
  } catch (const DriverError& error) {
    // Most refusals are part of normal life (a query, a probe); the reason helps whoever looks for one.
    if (std::getenv("SOFTMOE_EMULATOR_VERBOSE"))
      std::fprintf(stderr, "cuda-emulator: %s returns %d: %s\n", name, error.code, error.what());
    return error.code;
  } catch (const std::bad_alloc&) {
    return cuda::CUDA_ERROR_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cuda-emulator: %s: %s\n", name, error.what());
    return cuda::CUDA_ERROR_UNKNOWN;
  } catch (...) {
    return cuda::CUDA_ERROR_UNKNOWN;
  }
}

}  // namespace softmoe::emulator
