#include "fault_control.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <stdexcept>

namespace softmoe::emulator {

FaultControl::FaultControl(const std::string& path) {
  if (path.empty()) return;
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  void* data = MAP_FAILED;
  if (file >= 0 && lseek(file, 0, SEEK_END) >= static_cast<off_t>(sizeof(Numbers)))
    data = mmap(nullptr, sizeof(Numbers), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (file >= 0) close(file);
  if (data == MAP_FAILED)
    throw std::invalid_argument("SOFTMOE_EMULATOR_FAIL_CONTROL=" + path + " is no file of 32 bytes");
  shared_ = static_cast<Numbers*>(data);
}

FaultControl::~FaultControl() {
  if (shared_) munmap(shared_, sizeof(Numbers));
}

cuda::CUresult FaultControl::count() const {
  if (!shared_) return cuda::CUDA_SUCCESS;
  // Written by another mapping of the file.
  const auto read = [](const std::int64_t& number) { return __atomic_load_n(&number, __ATOMIC_SEQ_CST); };
  const std::int64_t code = read(shared_->code);
  if (code == 0) return cuda::CUDA_SUCCESS;
  const std::int64_t number = __atomic_fetch_add(&shared_->calls, 1, __ATOMIC_SEQ_CST);
  const std::int64_t past = number - read(shared_->before);
  return past >= 0 && past < read(shared_->failing) ? static_cast<cuda::CUresult>(code) : cuda::CUDA_SUCCESS;
}

}  // namespace softmoe::emulator
