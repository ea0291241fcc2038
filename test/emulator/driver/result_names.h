// Names and sentences of result codes.
#pragma once

#include "cuda_types.h"

namespace softmoe::emulator {

struct ResultName {
  cuda::CUresult code;
  const char* name;
  const char* sentence;
};

// Null for a number that is no result code.
const ResultName* resultName(cuda::CUresult code);

}  // namespace softmoe::emulator
