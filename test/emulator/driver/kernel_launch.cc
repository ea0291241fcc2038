#include "kernel_launch.h"

#include <cstring>

#include "device_properties.h"

namespace softmoe::emulator {
namespace {

using namespace cuda;

std::string dimensions(const ptxemu::Dim3& dim) {
  return "[" + std::to_string(dim.x) + "," + std::to_string(dim.y) + "," + std::to_string(dim.z) + "]";
}

std::string reportJson(const ptxemu::Report& report) {
  JsonObject json;
  json.add("kind", report.kind).add("message", report.message).add("kernel", report.kernel);
  json.addRaw("block", dimensions(report.block));
  json.add("warp", static_cast<unsigned>(report.warp)).add("lane", static_cast<unsigned>(report.lane));
  json.add("ptxLine", static_cast<unsigned>(report.ptxLine));
  json.add("file", report.file).add("line", static_cast<unsigned>(report.line));
  json.add("address", report.address).add("count", report.count);
  return json.text();
}

std::string lineJson(const ptxemu::LineCounters& line) {
  JsonObject json;
  json.add("file", line.file).add("line", static_cast<unsigned>(line.line));
  json.add("ptxLine", static_cast<unsigned>(line.ptxLine)).add("warpInstructions", line.warpInstructions);
  json.add("globalRequests", line.globalRequests).add("globalSectors", line.globalSectors);
  json.add("sharedRequests", line.sharedRequests).add("sharedWavefronts", line.sharedWavefronts);
  json.add("sharedIdealWavefronts", line.sharedIdealWavefronts);
  return json.text();
}

void writeCounters(Journal& journal, const KernelLaunch& launch, const ptxemu::LaunchResult& result) {
  JsonObject counters;
  result.counters.forEach([&](const char* name, std::uint64_t value) { counters.add(name, value); });
  std::string lines;
  for (const ptxemu::LineCounters& line : result.lines) lines += (lines.empty() ? "" : ",") + lineJson(line);
  JsonObject json;
  json.add("kernel", launch.function->kernel->name).add("target", launch.function->module->target);
  json.addRaw("grid", dimensions(launch.grid)).addRaw("block", dimensions(launch.block));
  json.add("dynamicShared", launch.dynamicShared).add("staticShared", launch.function->kernel->staticShared);
  json.addRaw("counters", counters.text()).addRaw("lines", "[" + lines + "]");
  journal.write(json.text(), json.text());
}

CUresult resultOf(ptxemu::Fault fault) {
  switch (fault) {
    case ptxemu::Fault::illegalAddress:
      return CUDA_ERROR_ILLEGAL_ADDRESS;
    case ptxemu::Fault::misalignedAddress:
      return CUDA_ERROR_MISALIGNED_ADDRESS;
    case ptxemu::Fault::assertion:
      return CUDA_ERROR_ASSERT;
    case ptxemu::Fault::deadlock:
      return CUDA_ERROR_LAUNCH_TIMEOUT;
    case ptxemu::Fault::trap:
    case ptxemu::Fault::none:
      break;
  }
  return CUDA_ERROR_LAUNCH_FAILED;
}

void requireValue(bool holds, const char* why) { require(holds, CUDA_ERROR_INVALID_VALUE, why); }

}  // namespace

void checkLaunch(const Settings& settings, const KernelLaunch& launch) {
  const auto& [grid, block] = std::pair(launch.grid, launch.block);
  requireValue(grid.count() > 0 && grid.x <= 2147483647u && grid.y <= 65535 && grid.z <= 65535,
               "the grid is empty or too large");
  requireValue(
      block.count() > 0 && block.x <= 1024 && block.y <= 1024 && block.z <= 64 && block.count() <= 1024,
      "the block is empty or too large");
  const std::uint32_t most = launch.function->kernel->maxThreads;
  requireValue(most == 0 || block.count() <= most, "the block is larger than the kernel's launch bounds");
  requireValue(launch.dynamicShared <= static_cast<std::uint32_t>(launch.function->maxDynamicShared),
               "more dynamic shared memory than the kernel was allowed by cuFuncSetAttribute");
  const std::uint32_t shared = launch.function->kernel->staticShared + launch.dynamicShared;
  requireValue(shared <= static_cast<std::uint32_t>(deviceProperties(settings).sharedPerBlockOptIn),
               "more shared memory than a block can have");
}

std::vector<unsigned char> packParameters(const ptxemu::Kernel& kernel, void** kernelParams, void** extra) {
  std::vector<unsigned char> packed(kernel.paramBytes);
  if (kernel.params.empty()) return packed;
  requireValue((kernelParams != nullptr) != (extra != nullptr),
               "a kernel with parameters wants exactly one of kernelParams and extra");
  if (kernelParams) {
    for (std::size_t i = 0; i < kernel.params.size(); ++i) {
      requireValue(kernelParams[i] != nullptr, "a kernel parameter is null");
      std::memcpy(packed.data() + kernel.params[i].offset, kernelParams[i], kernel.params[i].bytes);
    }
    return packed;
  }
  const void* buffer = nullptr;
  std::size_t size = 0;
  for (void** entry = extra; reinterpret_cast<std::uintptr_t>(*entry) != launchParamEnd; entry += 2) {
    const auto marker = reinterpret_cast<std::uintptr_t>(*entry);
    requireValue(marker == launchParamBufferPointer || marker == launchParamBufferSize,
                 "an unknown extra entry");
    if (marker == launchParamBufferPointer)
      buffer = entry[1];
    else
      size = *static_cast<const std::size_t*>(entry[1]);
  }
  requireValue(buffer && size >= packed.size(), "the parameter buffer is missing or too small");
  std::memcpy(packed.data(), buffer, packed.size());
  return packed;
}

CUresult runLaunch(Driver& driver, ptxemu::Memory& memory, const KernelLaunch& launch) {
  const Settings& settings = driver.settings;
  ptxemu::LaunchConfig config;
  config.grid = launch.grid;
  config.block = launch.block;
  config.dynamicShared = launch.dynamicShared;
  config.paramBuffer = launch.parameters.data();
  config.orderSeed = settings.seed;
  config.threads = static_cast<int>(settings.threads);
  config.cooperative = launch.cooperative;
  config.checks.bounds = settings.checks.bounds;
  config.checks.definedness = settings.checks.definedness;
  config.checks.races = settings.checks.races;
  config.checks.alignment = settings.checks.alignment;
  config.checks.counters = driver.counters.enabled();
  try {
    const ptxemu::LaunchResult result = ptxemu::launch(*launch.function->kernel, memory, config);
    for (const ptxemu::Report& report : result.reports)
      driver.reports.write(report.text(), reportJson(report));
    if (driver.counters.enabled()) writeCounters(driver.counters, launch, result);
    if (!result.ok) return resultOf(result.fault);
    return settings.strict && result.totalReports > 0 ? CUDA_ERROR_LAUNCH_FAILED : CUDA_SUCCESS;
  } catch (const std::exception& error) {
    driver.report("launch", launch.function->kernel->name + ": " + error.what());
    return CUDA_ERROR_LAUNCH_FAILED;
  }
}

}  // namespace softmoe::emulator
