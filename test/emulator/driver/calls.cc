#include "calls.h"

#include "journal.h"

namespace softmoe::emulator {

cuda::CUresult CallLedger::count(const char* name, const char* category) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::uint64_t ofAll = ++total_;
  const std::uint64_t ofFunction = ++functions_[name];
  const std::uint64_t ofCategory = category ? ++categories_[category] : 0;
  for (const Fault& fault : faults_) {
    const bool hit = (fault.name == "*" && fault.nth == ofAll) ||
                     (fault.name == name && fault.nth == ofFunction) ||
                     (category && fault.name == category && fault.nth == ofCategory);
    if (hit) return fault.code;
  }
  return control_.count();
}

std::uint64_t CallLedger::total() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return total_;
}

std::string CallLedger::json() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  JsonObject functions;
  for (const auto& [name, count] : functions_) functions.add(name, count);
  return JsonObject().add("total", total_).addRaw("functions", functions.text()).text();
}

}  // namespace softmoe::emulator
