#include "module_image.h"

#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "driver_error.h"

namespace softmoe::emulator {
namespace {

constexpr std::uint32_t fatbinMagic = 0xBA55ED50;
constexpr std::uint32_t elfMagic = 0x464C457F;
constexpr std::uint16_t kindPtx = 1;
constexpr std::uint64_t compressedFlags = 0xA000;  // LZ4 0x2000, zstd 0x8000

template <class Value>
Value read(const char* at) {
  Value value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// The word after a directive that starts a line, "sm_80" for ".target"; empty where there is none.
std::string directive(const std::string& ptx, const std::string& name) {
  for (std::size_t at = ptx.find(name); at != std::string::npos; at = ptx.find(name, at + 1)) {
    if (at > 0 && ptx[at - 1] != '\n') continue;
    std::size_t begin = at + name.size();
    while (begin < ptx.size() && std::isblank(static_cast<unsigned char>(ptx[begin]))) ++begin;
    std::size_t end = begin;
    while (end < ptx.size() && !std::isspace(static_cast<unsigned char>(ptx[end])) && ptx[end] != ',') ++end;
    return ptx.substr(begin, end - begin);
  }
  return "";
}

struct Target {
  int number = 0;         // 80 of sm_80
  bool specific = false;  // sm_90a: that device alone
};

Target parseTarget(const std::string& text) {
  Target target;
  if (text.compare(0, 3, "sm_") != 0) return target;
  std::size_t at = 3;
  for (; at < text.size() && std::isdigit(static_cast<unsigned char>(text[at])); ++at)
    target.number = target.number * 10 + (text[at] - '0');
  target.specific = at < text.size();
  return target;
}

bool runsOn(const Target& target, int device) {
  if (target.number == 0) return false;
  return target.specific ? target.number == device : target.number <= device;
}

// PTX 9.x came with CUDA 13.x, 8.x with 12.x, 7.x with 11.x.
int driverForPtx(const std::string& version) {
  const std::size_t dot = version.find('.');
  if (dot == std::string::npos) return 0;
  const int major = std::atoi(version.c_str());
  int minor = std::atoi(version.c_str() + dot + 1);
  if (major == 8 && minor >= 6) ++minor;  // PTX 8.6 is of CUDA 12.7; 12.6 brought none
  return (major + 4) * 1000 + minor * 10;
}

void checkVersion(const std::string& ptx, int driverVersion) {
  const std::string version = directive(ptx, ".version");
  require(!version.empty(), cuda::CUDA_ERROR_INVALID_PTX,
          "the image is neither a fatbin nor PTX: no .version");
  if (driverForPtx(version) > driverVersion)
    throw DriverError(cuda::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
                      "PTX " + version + " needs a newer driver than " + std::to_string(driverVersion));
}

ModuleImage fromFatbin(const char* image, int device, int driverVersion) {
  const char* at = image + read<std::uint16_t>(image + 6);
  const char* const end = at + read<std::uint64_t>(image + 8);
  ModuleImage best;
  Target bestTarget;
  bool sawCompressed = false;
  std::string seen;
  while (at < end) {
    const auto headerBytes = read<std::uint32_t>(at + 4);
    const auto payloadBytes = read<std::uint64_t>(at + 8);
    require(headerBytes >= 64 && payloadBytes <= static_cast<std::uint64_t>(end - at) - headerBytes,
            cuda::CUDA_ERROR_INVALID_IMAGE, "the fatbin is cut off");
    const bool compressed = (read<std::uint64_t>(at + 40) & compressedFlags) != 0;
    if (read<std::uint16_t>(at) == kindPtx && compressed) sawCompressed = true;
    if (read<std::uint16_t>(at) == kindPtx && !compressed) {
      std::string ptx(at + headerBytes, strnlen(at + headerBytes, payloadBytes));
      const std::string name = directive(ptx, ".target");
      const Target target = parseTarget(name);
      seen += " " + name;
      const bool better = target.number > bestTarget.number ||
                          (target.number == bestTarget.number && target.specific && !bestTarget.specific);
      if (runsOn(target, device) && better) {
        best = {std::move(ptx), name};
        bestTarget = target;
      }
    }
    at += headerBytes + payloadBytes;
  }
  if (!best.ptx.empty()) {
    checkVersion(best.ptx, driverVersion);
    return best;
  }
  if (sawCompressed)
    throw DriverError(cuda::CUDA_ERROR_INVALID_IMAGE,
                      "the PTX in the fatbin is compressed: build it with nvcc --compress-mode none");
  throw DriverError(cuda::CUDA_ERROR_NO_BINARY_FOR_GPU, "no PTX in the fatbin runs on sm_" +
                                                            std::to_string(device) + "; it holds" +
                                                            (seen.empty() ? std::string(" none") : seen));
}

}  // namespace

ModuleImage selectPtx(const void* image, int major, int minor, int driverVersion) {
  require(image != nullptr, cuda::CUDA_ERROR_INVALID_VALUE, "the module image is null");
  const char* bytes = static_cast<const char*>(image);
  const int device = major * 10 + minor;
  // Read byte by byte: PTX text may be shorter than a magic number.
  const std::uint32_t magic = bytes[0] == '\x50' || bytes[0] == '\x7F' ? read<std::uint32_t>(bytes) : 0;
  if (magic == fatbinMagic) return fromFatbin(bytes, device, driverVersion);
  if (magic == elfMagic)
    throw DriverError(cuda::CUDA_ERROR_NO_BINARY_FOR_GPU,
                      "the image is machine code, and only PTX can be run");
  ModuleImage plain{std::string(bytes), ""};
  checkVersion(plain.ptx, driverVersion);
  plain.target = directive(plain.ptx, ".target");
  if (!runsOn(parseTarget(plain.target), device))
    throw DriverError(cuda::CUDA_ERROR_INVALID_PTX,
                      "PTX for " + plain.target + " does not run on sm_" + std::to_string(device));
  return plain;
}

}  // namespace softmoe::emulator
