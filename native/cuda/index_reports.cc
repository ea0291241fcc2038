#include "cuda/index_reports.h"

#include <cstring>
#include <string>

#include "core/index_error.h"

namespace softmoe::cuda {

IndexReportList* IndexReports::list() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (list_) return list_;
  void* data = nullptr;
  if (driver_.host_allocate(&data, sizeof(IndexReportList), 0) != kSuccess) {
    throw Error(
        "ERR_OUT_OF_MEMORY",
        "no page-locked memory for the check of index tensors: close other programs that use the GPU");
  }
  std::memset(data, 0, sizeof(IndexReportList));
  list_ = static_cast<IndexReportList*>(data);
  taken_ = 0;
  return list_;
}

std::int32_t IndexReports::number_of(const char* operation) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (std::size_t i = 0; i < operations_.size(); ++i) {
    if (operations_[i] == operation) return static_cast<std::int32_t>(i);
  }
  operations_.push_back(operation);
  return static_cast<std::int32_t>(operations_.size() - 1);
}

std::optional<Error> IndexReports::take() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!list_) return std::nullopt;
  const std::uint32_t count = __atomic_load_n(&list_->count, __ATOMIC_ACQUIRE);
  if (count == taken_) return std::nullopt;
  const IndexReport report = list_->reports[taken_ % IndexReportList::kKept];
  taken_ = count;
  const Error error =
      index_error({static_cast<IndexProblem>(report.problem), report.position, report.value, report.limit});
  const auto operation = static_cast<std::size_t>(report.operation);
  const std::string name = operation < operations_.size() ? operations_[operation] : "an operation";
  return Error(error.code(), name + ": " + error.what());
}

void IndexReports::free() noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (list_) driver_.host_free(list_);
  list_ = nullptr;
}

}  // namespace softmoe::cuda
