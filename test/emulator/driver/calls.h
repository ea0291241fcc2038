// Counts driver calls and fails the ones the environment chose.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "cuda_types.h"
#include "fault_control.h"
#include "settings.h"

namespace softmoe::emulator {

class CallLedger {
 public:
  CallLedger(std::vector<Fault> faults, const std::string& control)
      : faults_(std::move(faults)), control_(control) {}

  // Counts one call of `name`, in `category` ("alloc", "launch" or none) too; CUDA_SUCCESS, or the code this
  // call shall fail with.
  cuda::CUresult count(const char* name, const char* category);

  std::uint64_t total() const;
  std::string json() const;  // {"total":N,"functions":{"cuInit":1,…}}

 private:
  const std::vector<Fault> faults_;
  const FaultControl control_;
  mutable std::mutex mutex_;
  std::uint64_t total_ = 0;
  std::map<std::string, std::uint64_t> functions_;
  std::map<std::string, std::uint64_t> categories_;
};

}  // namespace softmoe::emulator
