#include "device_properties.h"

namespace softmoe::emulator {

// Shared memory, threads and blocks: CUDA C++ Programming Guide, "Technical Specifications per Compute
// Capability". The rest: data sheets of A100 (8.0), A10 (8.6), L4 (8.9) and H100 SXM (9.0).
DeviceProperties deviceProperties(const Settings& settings) {
  DeviceProperties properties{};
  switch (settings.computeMajor * 10 + settings.computeMinor) {
    case 80:
      properties = {108, 2048, 32, 164 << 10, 163 << 10, 40 << 20, 1410000, 1215000, 5120};
      break;
    case 86:
      properties = {72, 1536, 16, 100 << 10, 99 << 10, 6 << 20, 1695000, 6251000, 384};
      break;
    case 89:
      properties = {58, 1536, 24, 100 << 10, 99 << 10, 48 << 20, 2040000, 6251000, 192};
      break;
    default:
      properties = {132, 2048, 32, 228 << 10, 227 << 10, 50 << 20, 1980000, 2619000, 5120};
      break;
  }
  if (settings.multiprocessors > 0) properties.multiprocessors = settings.multiprocessors;
  return properties;
}

}  // namespace softmoe::emulator
