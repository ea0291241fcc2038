#include "cpu/host_info.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>

namespace softmoe::cpu {

std::size_t usable_memory_bytes() {
  const long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
  std::size_t bytes = SIZE_MAX;
  if (pages > 0 && page_bytes > 0)
    bytes = static_cast<std::size_t>(pages) * static_cast<std::size_t>(page_bytes);
  // Holds "max" where there is no limit; then the extraction fails.
  std::ifstream file("/sys/fs/cgroup/memory.max");
  std::size_t limit = 0;
  if (file >> limit && limit > 0) bytes = std::min(bytes, limit);
  return bytes;
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.compare(0, 10, "model name") != 0) continue;
    const std::size_t colon = line.find(": ");
    return colon == std::string::npos ? "" : line.substr(colon + 2);
  }
  return "";
}

}  // namespace softmoe::cpu
