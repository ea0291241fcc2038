#include "cuda/cuda_device.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "cuda/fatbin.h"

namespace softmoe::cuda {

namespace {

constexpr std::size_t kUploadChunk = std::size_t{4} << 20;
constexpr std::size_t kUploadsInFlight = 8;
constexpr std::size_t kRememberedOperations = 8;

DevicePointer address_of(const void* data) { return reinterpret_cast<DevicePointer>(data); }

Error make_memory_fault() {
  return Error("ERR_OUT_OF_MEMORY", "the process has no memory left: use a smaller batch");
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

}  // namespace

int CudaDevice::count() {
  const Driver& driver = Driver::get();
  int count = 0;
  driver.check(driver.device_count(&count), "counting the GPUs");
  return count;
}

std::shared_ptr<CudaDevice> CudaDevice::open(int index) {
  const Driver& driver = Driver::get();
  const int available = count();
  if (index < 0 || index >= available) {
    throw Error("ERR_NO_DEVICE", "GPU " + std::to_string(index) + " was asked for, but this machine has " +
                                     std::to_string(available) +
                                     ": indices start at 0; see `nvidia-smi` and CUDA_VISIBLE_DEVICES");
  }
  if (!softmoe_fatbins[0].name) {
    throw Error("ERR_NO_KERNEL_IMAGE",
                "this build holds no CUDA kernels: install a build with CUDA support, build from source with "
                "the CUDA toolkit on PATH, or use the device 'cpu'");
  }
  return std::make_shared<CudaDevice>(Key{}, driver, index);
}

CudaDevice::CudaDevice(Key, const Driver& driver, int index)
    : driver_(driver), index_(index), memory_(driver), pinned_(driver) {
  driver_.check(driver_.device_get(&handle_, index), "opening the GPU");
  char name[256] = {};
  driver_.check(driver_.device_name(name, sizeof(name), handle_), "asking for the GPU's name");
  name_ = name;
  driver_.check(driver_.device_total_memory(&total_memory_, handle_), "asking for the GPU's memory");
  int major = 0, minor = 0;
  driver_.check(driver_.device_attribute(&major, kAttributeComputeMajor, handle_), "asking for a property");
  driver_.check(driver_.device_attribute(&minor, kAttributeComputeMinor, handle_), "asking for a property");
  properties_.compute_capability = 10 * major + minor;
  if (major < 8) {
    throw Error("ERR_NO_KERNEL_IMAGE", "the GPU " + name_ + " has compute capability " +
                                           std::to_string(major) + "." + std::to_string(minor) +
                                           ", but the kernels need 8.0 or newer: use the device 'cpu'");
  }
  driver_.device_attribute(&properties_.multiprocessors, kAttributeMultiprocessors, handle_);
  driver_.device_attribute(&properties_.shared_bytes_per_block, kAttributeSharedPerBlockOptIn, handle_);
  driver_.check(driver_.primary_context_retain(&context_, handle_), "opening the GPU's primary context");
  try {
    make_current();
    driver_.check(driver_.stream_create(&stream_, kStreamNonBlocking), "creating a stream");
    launcher_ = std::make_unique<Launcher>(driver_, stream_, memory_, properties_);
    kernels_ = std::make_unique<CudaKernels>(*launcher_);
    completions_ = std::make_unique<CompletionQueue>(driver_, context_);
  } catch (...) {
    if (stream_) driver_.stream_destroy(stream_);
    driver_.primary_context_release(handle_);
    throw;
  }
}

CudaDevice::~CudaDevice() {
  close();
  driver_.context_set_current(context_);
  memory_.empty_cache();
  launcher_.reset();
  driver_.stream_destroy(stream_);
  driver_.primary_context_release(handle_);
}

std::string CudaDevice::description() const {
  return "{\"kind\":\"cuda\",\"index\":" + std::to_string(index_) + ",\"name\":" + quoted(name_) +
         ",\"computeCapability\":\"" + std::to_string(properties_.compute_capability / 10) + "." +
         std::to_string(properties_.compute_capability % 10) +
         "\",\"multiprocessors\":" + std::to_string(properties_.multiprocessors) +
         ",\"memoryBytes\":" + std::to_string(total_memory_) + ",\"driver\":" + quoted(driver_.path) +
         ",\"driverCuda\":\"" + version_text(driver_.version) + "\",\"kernelsCuda\":\"" +
         version_text(softmoe_cuda_toolkit_version) + "\"}";
}

void CudaDevice::require_open(const char* action) const {
  if (closed_) {
    throw Error("ERR_DISPOSED", std::string(action) + " was asked of a closed device: open it again");
  }
}

void CudaDevice::make_current() const {
  driver_.check(driver_.context_set_current(context_), "making the GPU's context current");
}

// --- memory
// --------------------------------------------------------------------------------------------------

void* CudaDevice::allocate(std::size_t bytes) {
  require_open("memory");
  make_current();
  void* data = memory_.allocate(bytes);
  const std::lock_guard<std::mutex> lock(usage_mutex_);
  usage_.tensors += 1;
  usage_.bytes += static_cast<std::int64_t>(bytes);
  usage_.peak_bytes = std::max(usage_.peak_bytes, usage_.bytes);
  return data;
}

void CudaDevice::release(void* data, std::size_t bytes) noexcept {
  if (!data) return;
  memory_.release(data, bytes);
  const std::lock_guard<std::mutex> lock(usage_mutex_);
  usage_.tensors -= 1;
  usage_.bytes -= static_cast<std::int64_t>(bytes);
}

MemoryUsage CudaDevice::memory_usage() const {
  MemoryUsage usage;
  {
    const std::lock_guard<std::mutex> lock(usage_mutex_);
    usage = usage_;
  }
  usage.cached_bytes = memory_.cached_bytes();
  usage.system_allocations = memory_.driver_allocations();
  return usage;
}

void CudaDevice::empty_cache() {
  const std::lock_guard<std::mutex> lock(mutex_);
  require_open("emptying the cache");
  make_current();
  driver_.stream_synchronize(stream_);
  memory_.empty_cache();
  pinned_.clear();
}

// --- faults
// --------------------------------------------------------------------------------------------------

std::string CudaDevice::recent_operations() const {
  std::string names;
  for (const std::string& name : recent_) names += (names.empty() ? "" : ", ") + name;
  return names;
}

void CudaDevice::record_fault(const Error& error) {
  const std::lock_guard<std::mutex> lock(fault_mutex_);
  if (!fault_) fault_ = error;
}

void CudaDevice::record_asynchronous_fault(Result result) {
  if (result == kSuccess) return;
  const std::lock_guard<std::mutex> lock(fault_mutex_);
  if (is_sticky(result)) unusable_ = true;
  if (fault_) return;
  const std::string which = recent_.empty()       ? "a copy"
                            : recent_.size() == 1 ? recent_.front()
                                                  : "one of " + recent_operations();
  fault_ = driver_.error(result, which + " (running on the GPU)");
}

std::optional<Error> CudaDevice::take_fault() {
  const std::lock_guard<std::mutex> lock(fault_mutex_);
  std::optional<Error> fault = fault_;
  // A fault that broke the context is told by every later wait.
  if (!unusable_) fault_.reset();
  return fault;
}

// --- work
// ----------------------------------------------------------------------------------------------------

void CudaDevice::submit(const char* name, Task task) {
  const std::lock_guard<std::mutex> lock(mutex_);
  require_open(name);
  if (unusable_) return;
  {
    const std::lock_guard<std::mutex> fault_lock(fault_mutex_);
    recent_.emplace_back(name);
    if (recent_.size() > kRememberedOperations) recent_.pop_front();
  }
  try {
    make_current();
    task(*kernels_);
  } catch (const Error& error) {
    record_fault(Error(error.code(), std::string(name) + ": " + error.what()));
  } catch (const std::exception& error) {
    record_fault(Error("ERR_INTERNAL", std::string(name) + ": " + error.what()));
  }
}

void CudaDevice::recycle_uploads(bool wait_for_one) {
  while (!uploads_.empty()) {
    const Upload upload = uploads_.front();
    if (wait_for_one) {
      record_asynchronous_fault(driver_.event_synchronize(upload.event));
    } else if (driver_.event_query(upload.event) != kSuccess) {
      return;
    }
    wait_for_one = false;
    uploads_.pop_front();
    upload_events_.push_back(upload.event);
    pinned_.release(upload.block);
  }
}

void CudaDevice::upload(void* target, const void* source, std::size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  require_open("an upload");
  if (capturing_)
    throw Error("ERR_INVALID_ARGUMENT", "an upload cannot be part of a captured graph: copy first");
  if (unusable_ || bytes == 0) return;
  make_current();
  for (std::size_t done = 0; done < bytes;) {
    const std::size_t count = std::min(kUploadChunk, bytes - done);
    recycle_uploads(uploads_.size() >= kUploadsInFlight);
    const PinnedBlock block = pinned_.acquire(count);
    const char* from = static_cast<const char*>(source) + done;
    if (block) {
      std::memcpy(block.data, from, count);
      from = static_cast<const char*>(block.data);
    }
    const Result copied = driver_.copy_to_device(address_of(target) + done, from, count, stream_);
    Event event = nullptr;
    Result recorded = copied;
    if (copied == kSuccess) {
      if (upload_events_.empty()) {
        recorded = driver_.event_create(&event, kEventDisableTiming);
      } else {
        event = upload_events_.back();
        upload_events_.pop_back();
      }
      if (recorded == kSuccess) recorded = driver_.event_record(event, stream_);
    }
    if (recorded != kSuccess) {
      if (event) upload_events_.push_back(event);
      driver_.stream_synchronize(stream_);
      pinned_.release(block);
      if (is_sticky(recorded)) record_asynchronous_fault(recorded);
      throw driver_.error(recorded, "copying " + std::to_string(bytes) + " bytes to the GPU");
    }
    uploads_.push_back({event, block});
    // Without page-locked memory the source itself is read: it must have been read before this returns.
    if (!block) driver_.event_synchronize(event);
    done += count;
  }
}

void CudaDevice::finish(const Completion& done, std::optional<Error> pending, Error memory_fault,
                        Result result) noexcept {
  try {
    record_asynchronous_fault(result);
    if (!pending && result != kSuccess) pending = take_fault();
    if (!pending) pending = launcher_->index_reports().take();
  } catch (const std::bad_alloc&) {
    pending = std::move(memory_fault);
  }
  done(std::move(pending));
}

void CudaDevice::download(const void* source, void* target, std::size_t bytes, Completion done) {
  const std::lock_guard<std::mutex> lock(mutex_);
  require_open("a download");
  if (capturing_) throw Error("ERR_INVALID_ARGUMENT", "a download cannot be part of a captured graph");
  make_current();
  std::optional<Error> pending = take_fault();
  PinnedBlock block;
  if (!pending && bytes > 0) {
    block = pinned_.acquire(bytes);
    const Result copied =
        driver_.copy_to_host(block ? block.data : target, address_of(source), bytes, stream_);
    if (copied != kSuccess) {
      record_asynchronous_fault(copied);
      pending = take_fault();
    }
  }
  try {
    push(
        [this, block, target, bytes, pending, memory_fault = make_memory_fault(),
         done = std::move(done)](Result result) mutable {
          if (block && result == kSuccess && !pending) std::memcpy(target, block.data, bytes);
          pinned_.release(block);
          finish(done, std::move(pending), std::move(memory_fault), result);
        },
        pending);
  } catch (...) {
    driver_.stream_synchronize(stream_);  // the copy may be under way
    pinned_.release(block);
    throw;
  }
}

// A wait that cannot even be queued tells the fault before it rather than its consequence.
void CudaDevice::push(CompletionQueue::Action action, const std::optional<Error>& pending) {
  try {
    completions_->push(stream_, std::move(action));
  } catch (const Error&) {
    if (pending) throw Error(*pending);
    throw;
  }
}

void CudaDevice::on_reached(Completion done) {
  const std::lock_guard<std::mutex> lock(mutex_);
  require_open("a wait");
  if (capturing_) throw Error("ERR_INVALID_ARGUMENT", "a wait cannot be part of a captured graph");
  make_current();
  std::optional<Error> pending = take_fault();
  push([this, pending, memory_fault = make_memory_fault(), done = std::move(done)](
           Result result) mutable { finish(done, std::move(pending), std::move(memory_fault), result); },
       pending);
}

void CudaDevice::synchronize() {
  const std::lock_guard<std::mutex> lock(mutex_);
  require_open("a wait");
  if (capturing_) throw Error("ERR_INVALID_ARGUMENT", "a wait cannot be part of a captured graph");
  make_current();
  record_asynchronous_fault(driver_.stream_synchronize(stream_));
  if (const std::optional<Error> fault = take_fault()) throw Error(*fault);
  if (const std::optional<Error> fault = launcher_->index_reports().take()) throw Error(*fault);
  const std::lock_guard<std::mutex> fault_lock(fault_mutex_);
  recent_.clear();
}

void CudaDevice::close() noexcept {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (closed_.exchange(true)) return;
    driver_.context_set_current(context_);
    driver_.stream_synchronize(stream_);
  }
  completions_->close();
  const std::lock_guard<std::mutex> lock(mutex_);
  driver_.context_set_current(context_);
  recycle_uploads(true);
  for (const Upload& upload : uploads_) {
    pinned_.release(upload.block);
    driver_.event_destroy(upload.event);
  }
  uploads_.clear();
  for (const Event event : upload_events_) driver_.event_destroy(event);
  upload_events_.clear();
  pinned_.clear();
  memory_.empty_cache();
  launcher_->unload();
}

}  // namespace softmoe::cuda
