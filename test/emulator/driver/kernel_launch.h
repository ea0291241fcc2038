// One kernel launch as a piece of queued work, and what it leaves behind: reports and counters.
#pragma once

#include <memory>
#include <vector>

#include "driver.h"

namespace softmoe::emulator {

struct KernelLaunch {
  std::shared_ptr<Function> function;
  ptxemu::Dim3 grid;
  ptxemu::Dim3 block;
  std::uint32_t dynamicShared = 0;
  bool cooperative = false;
  std::vector<unsigned char> parameters;
};

// Throws INVALID_VALUE for what the device or the kernel does not allow.
void checkLaunch(const Settings& settings, const KernelLaunch& launch);

// Copies the arguments as the kernel lays them out, from `kernelParams` or from the buffer in `extra`.
std::vector<unsigned char> packParameters(const ptxemu::Kernel& kernel, void** kernelParams, void** extra);

// Runs the kernel. Called without the driver's lock.
cuda::CUresult runLaunch(Driver& driver, ptxemu::Memory& memory, const KernelLaunch& launch);

}  // namespace softmoe::emulator
