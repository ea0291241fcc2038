// Finds the PTX to run in what a program hands to cuModuleLoadData: a fatbin or PTX text.
//
// A fatbin is a 16-byte header (u32 magic 0xBA55ED50, u16 version, u16 header bytes, u64 bytes that follow)
// and entries (u16 kind: 1 PTX, 2 ELF; u32 header bytes at 4; u64 payload bytes at 8; u64 flags at 40), each
// with its payload behind it. Machine code is never used; compressed PTX cannot be.
#pragma once

#include <string>

namespace softmoe::emulator {

struct ModuleImage {
  std::string ptx;     // ends without NUL
  std::string target;  // as in `.target`, "sm_80"
};

// The PTX with the highest target that compute capability major.minor can run; `sm_XYa` only on that very
// device. Throws DriverError: INVALID_IMAGE, NO_BINARY_FOR_GPU, INVALID_PTX, UNSUPPORTED_PTX_VERSION.
ModuleImage selectPtx(const void* image, int major, int minor, int driverVersion);

}  // namespace softmoe::emulator
