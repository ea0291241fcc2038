// What the environment asks of the emulated driver. Read once, at the first driver call.
//
//   SOFTMOE_EMULATOR_ARCH=9.0            compute capability: 8.0, 8.6, 8.9 or 9.0
//   SOFTMOE_EMULATOR_DEVICES=1           number of devices; 0 makes cuInit fail with CUDA_ERROR_NO_DEVICE
//   SOFTMOE_EMULATOR_DRIVER_VERSION=13000  what cuDriverGetVersion says; older ones refuse newer PTX (222)
//   SOFTMOE_EMULATOR_MEMORY_MB=4096      memory of each device
//   SOFTMOE_EMULATOR_MULTIPROCESSORS=    multiprocessor count; default: that of the real device
//   SOFTMOE_EMULATOR_THREADS=            host threads that run blocks; default: one a core
//   SOFTMOE_EMULATOR_SEED=0              order of blocks and warps; 0 is the natural order
//   SOFTMOE_EMULATOR_ASYNC=deferred      deferred: queued work runs when something waits for it or asks about
//   it;
//                                        thread: a background thread runs it in the order it was queued
//   SOFTMOE_EMULATOR_CHECKS=all          all, none, or a comma list of bounds, definedness, races, alignment
//   SOFTMOE_EMULATOR_STRICT=1            1: a report of any checker fails the launch; 0: only what faults a
//   GPU SOFTMOE_EMULATOR_REPORTS=stderr      where reports go: stderr, off, or a file (one JSON object a
//   line) SOFTMOE_EMULATOR_COUNTERS=off        off, or a file (one JSON object a launch)
//   SOFTMOE_EMULATOR_LEAKS=off           at process exit: off, stderr, or a file (one JSON object a leak)
//   SOFTMOE_EMULATOR_CALLS=off           at process exit the number of driver calls: off, stderr, or a file
//   SOFTMOE_EMULATOR_VERBOSE=            set to anything: print why a call is refused
//   SOFTMOE_EMULATOR_FAIL=               comma list of NAME:N:CODE, "the n-th call of NAME returns CODE".
//                                        NAME is an exported function, `alloc` (any device allocation),
//                                        `launch` (any kernel launch) or `*` (any driver call). N counts
//                                        from 1. A CODE from 700 to 719 also stays: every later call fails
//                                        with it.
//   SOFTMOE_EMULATOR_FAIL_CONTROL=       a file by which the program under test chooses the calls that
//                                        fail while it runs; see fault_control.h
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda_types.h"

namespace softmoe::emulator {

enum class Execution { deferred, thread };

struct Fault {
  std::string name;
  std::uint64_t nth;
  cuda::CUresult code;
};

struct CheckSelection {
  bool bounds = true;
  bool definedness = true;
  bool races = true;
  bool alignment = true;
};

struct Settings {
  int computeMajor = 9;
  int computeMinor = 0;
  int devices = 1;
  int driverVersion = 13000;
  std::size_t memoryBytes = std::size_t{4096} << 20;
  int multiprocessors = 0;
  unsigned threads = 1;
  std::uint64_t seed = 0;
  Execution execution = Execution::deferred;
  CheckSelection checks;
  bool strict = true;
  std::string reports = "stderr";
  std::string counters = "off";
  std::string leaks = "off";
  std::string calls = "off";
  std::vector<Fault> faults;
  std::string faultControl;

  // Throws std::invalid_argument with one sentence on a value that means nothing.
  static Settings fromEnvironment();
};

}  // namespace softmoe::emulator
