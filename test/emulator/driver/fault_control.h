// Lets the program under test choose, while it runs, which driver calls fail: it shares a file of four 64-bit
// numbers with the driver. They are the code to fail with (0: calls are not counted), how many calls succeed
// before the first that fails, how many fail then, and how many were made since the program set it to 0.
#pragma once

#include <cstdint>
#include <string>

#include "cuda_types.h"

namespace softmoe::emulator {

class FaultControl {
 public:
  // An empty path: no call ever fails. Throws std::invalid_argument for a file that cannot be shared.
  explicit FaultControl(const std::string& path);
  ~FaultControl();
  FaultControl(const FaultControl&) = delete;
  FaultControl& operator=(const FaultControl&) = delete;

  // Counts one call; CUDA_SUCCESS, or the code it shall fail with.
  cuda::CUresult count() const;

 private:
  struct Numbers {
    std::int64_t code, before, failing, calls;
  };
  Numbers* shared_ = nullptr;
};

}  // namespace softmoe::emulator
