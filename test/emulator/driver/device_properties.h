// The figures of the devices that can be emulated.
#pragma once

#include "settings.h"

namespace softmoe::emulator {

struct DeviceProperties {
  int multiprocessors;
  int threadsPerMultiprocessor;
  int blocksPerMultiprocessor;
  int sharedPerMultiprocessor;  // bytes
  int sharedPerBlockOptIn;      // bytes
  int l2Bytes;
  int clockKilohertz;
  int memoryClockKilohertz;
  int memoryBusBits;
};

constexpr int sharedPerBlockDefault = 48 << 10;
constexpr int sharedReservedPerBlock = 1 << 10;
constexpr int registersPerMultiprocessor = 65536;

DeviceProperties deviceProperties(const Settings& settings);

}  // namespace softmoe::emulator
