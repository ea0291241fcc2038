// The CPU as a device: a stream of work on a thread of its own in front of the shared thread pool.
#pragma once

#include <memory>

#include "core/device.h"

namespace softmoe::cpu {

// A new, independent stream. Throws ERR_INVALID_ARGUMENT for an unusable environment variable
// (SOFTMOE_CPU_ISA, SOFTMOE_THREADS, SOFTMOE_CPU_MEMORY_LIMIT) and ERR_WORKER when no thread can be started.
std::shared_ptr<Device> open_cpu_device();

// Threads that all CPU devices share, 1 … 256. Returns how many there are now: fewer when the system refuses
// more.
int set_threads(int threads);
int threads();

}  // namespace softmoe::cpu
