// Handles given to the program. A handle is a number that is never used again, so a destroyed object, an
// object of another kind and garbage are all told from a live one.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include "driver_error.h"

namespace softmoe::emulator {

inline std::uintptr_t nextHandleNumber() {
  static std::atomic<std::uintptr_t> last{0x5107000};
  return last += 16;
}

template <class Handle, class Object>
class Registry {
 public:
  Handle add(std::shared_ptr<Object> object) {
    const Handle handle = reinterpret_cast<Handle>(nextHandleNumber());
    objects_.emplace(handle, std::move(object));
    return handle;
  }

  // Null when the handle names nothing.
  std::shared_ptr<Object> find(Handle handle) const {
    const auto found = objects_.find(handle);
    return found == objects_.end() ? nullptr : found->second;
  }

  std::shared_ptr<Object> get(Handle handle) const {
    auto object = find(handle);
    require(object != nullptr, cuda::CUDA_ERROR_INVALID_HANDLE, "the handle names no live object");
    return object;
  }

  std::shared_ptr<Object> take(Handle handle) {
    auto object = get(handle);
    objects_.erase(handle);
    return object;
  }

  template <class Condition>
  void removeIf(Condition condition) {
    for (auto at = objects_.begin(); at != objects_.end();)
      at = condition(*at->second) ? objects_.erase(at) : std::next(at);
  }

  const std::map<Handle, std::shared_ptr<Object>>& all() const { return objects_; }

 private:
  std::map<Handle, std::shared_ptr<Object>> objects_;
};

}  // namespace softmoe::emulator
