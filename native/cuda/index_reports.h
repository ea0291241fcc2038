// What the checks of index tensors report from the GPU. The memory is allocated by the first check.
#pragma once

#include <mutex>
#include <optional>
#include <vector>

#include "core/error.h"
#include "cuda/driver.h"
#include "cuda/kernels/index_checks_params.h"

namespace softmoe::cuda {

class IndexReports {
 public:
  explicit IndexReports(const Driver& driver) : driver_(driver) {}
  IndexReports(const IndexReports&) = delete;
  IndexReports& operator=(const IndexReports&) = delete;

  // For the kernels. The context is current. Throws ERR_OUT_OF_MEMORY.
  IndexReportList* list();
  // A number for the operation, whose name is a literal.
  std::int32_t number_of(const char* operation);
  // The first fault since the last call; the stream has passed the checks in question.
  std::optional<Error> take();
  void free() noexcept;

 private:
  const Driver& driver_;
  std::mutex mutex_;
  IndexReportList* list_ = nullptr;
  std::uint32_t taken_ = 0;
  std::vector<const char*> operations_;
};

}  // namespace softmoe::cuda
