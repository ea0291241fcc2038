// How the inside of the emulated driver refuses a call: the result code the caller gets, and why.
#pragma once

#include <stdexcept>
#include <string>

#include "cuda_types.h"

namespace softmoe::emulator {

class DriverError : public std::runtime_error {
 public:
  DriverError(cuda::CUresult code, const std::string& why) : std::runtime_error(why), code(code) {}
  const cuda::CUresult code;
};

inline void require(bool holds, cuda::CUresult code, const char* why) {
  if (!holds) throw DriverError(code, why);
}

}  // namespace softmoe::emulator
