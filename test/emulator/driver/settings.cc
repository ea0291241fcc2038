#include "settings.h"

#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <thread>

namespace softmoe::emulator {
namespace {

std::string variable(const std::string& name) {
  const char* value = std::getenv(("SOFTMOE_EMULATOR_" + name).c_str());
  return value ? value : "";
}

[[noreturn]] void reject(const std::string& name, const std::string& value, const std::string& wanted) {
  throw std::invalid_argument("SOFTMOE_EMULATOR_" + name + "=" + value + " means nothing: want " + wanted);
}

std::uint64_t number(const std::string& name, std::uint64_t fallback) {
  const std::string value = variable(name);
  if (value.empty()) return fallback;
  char* end = nullptr;
  const std::uint64_t parsed = std::strtoull(value.c_str(), &end, 0);
  if (*end != '\0' || value[0] == '-') reject(name, value, "a whole number");
  return parsed;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);)
    if (!part.empty()) parts.push_back(part);
  return parts;
}

CheckSelection parseChecks(const std::string& value) {
  CheckSelection checks;
  if (value.empty() || value == "all") return checks;
  checks = CheckSelection{false, false, false, false};
  if (value == "none") return checks;
  for (const std::string& name : split(value, ',')) {
    if (name == "bounds")
      checks.bounds = true;
    else if (name == "definedness")
      checks.definedness = true;
    else if (name == "races")
      checks.races = true;
    else if (name == "alignment")
      checks.alignment = true;
    else
      reject("CHECKS", value, "all, none, or some of bounds,definedness,races,alignment");
  }
  return checks;
}

std::vector<Fault> parseFaults(const std::string& value) {
  std::vector<Fault> faults;
  for (const std::string& item : split(value, ',')) {
    const std::vector<std::string> fields = split(item, ':');
    char* end = nullptr;
    if (fields.size() != 3) reject("FAIL", value, "NAME:N:CODE, as in alloc:3:2");
    const std::uint64_t nth = std::strtoull(fields[1].c_str(), &end, 10);
    if (*end != '\0' || nth == 0) reject("FAIL", value, "N counted from 1");
    const int code = static_cast<int>(std::strtol(fields[2].c_str(), &end, 10));
    if (*end != '\0' || code == 0) reject("FAIL", value, "CODE a nonzero CUresult");
    faults.push_back({fields[0], nth, static_cast<cuda::CUresult>(code)});
  }
  return faults;
}

void parseArchitecture(Settings& settings) {
  const std::string value = variable("ARCH");
  if (value.empty()) return;
  if (value != "8.0" && value != "8.6" && value != "8.9" && value != "9.0")
    reject("ARCH", value, "8.0, 8.6, 8.9 or 9.0");
  settings.computeMajor = value[0] - '0';
  settings.computeMinor = value[2] - '0';
}

}  // namespace

Settings Settings::fromEnvironment() {
  Settings settings;
  parseArchitecture(settings);
  settings.devices = static_cast<int>(number("DEVICES", 1));
  settings.driverVersion = static_cast<int>(number("DRIVER_VERSION", 13000));
  settings.memoryBytes = static_cast<std::size_t>(number("MEMORY_MB", 4096)) << 20;
  settings.multiprocessors = static_cast<int>(number("MULTIPROCESSORS", 0));
  const unsigned cores = std::thread::hardware_concurrency();
  settings.threads = static_cast<unsigned>(number("THREADS", cores ? cores : 1));
  if (settings.threads == 0) reject("THREADS", "0", "at least 1");
  settings.seed = number("SEED", 0);

  const std::string execution = variable("ASYNC");
  if (execution == "thread")
    settings.execution = Execution::thread;
  else if (!execution.empty() && execution != "deferred")
    reject("ASYNC", execution, "deferred or thread");

  settings.checks = parseChecks(variable("CHECKS"));
  settings.strict = number("STRICT", 1) != 0;
  const auto place = [](const char* name, std::string& target) {
    const std::string value = variable(name);
    if (!value.empty()) target = value;
  };
  place("REPORTS", settings.reports);
  place("COUNTERS", settings.counters);
  place("LEAKS", settings.leaks);
  place("CALLS", settings.calls);
  place("FAIL_CONTROL", settings.faultControl);
  settings.faults = parseFaults(variable("FAIL"));
  return settings;
}

}  // namespace softmoe::emulator
