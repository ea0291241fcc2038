// A row-major, contiguous tensor: shared, counted storage on a device, with a shape and a dtype.
#pragma once

#include <memory>
#include <utility>

#include "core/device.h"
#include "core/dtype.h"
#include "core/index_proof.h"
#include "core/shape.h"

namespace softmoe {

class Storage {
 public:
  Storage(std::shared_ptr<Device> device, std::size_t bytes)
      : device_(std::move(device)), bytes_(bytes), data_(device_->allocate(bytes)) {}
  ~Storage() { device_->release(data_, bytes_); }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  const std::shared_ptr<Device>& device() const { return device_; }
  std::size_t bytes() const { return bytes_; }
  void* data() const { return data_; }
  const IndexMark& index_mark() const { return index_mark_; }
  void set_index_mark(IndexMark mark) { index_mark_ = std::move(mark); }

 private:
  std::shared_ptr<Device> device_;
  std::size_t bytes_;
  void* data_;
  IndexMark index_mark_;  // of the threads that queue work
};

class Tensor {
 public:
  Tensor() = default;  // absent: an optional operand that was not given
  static Tensor empty(const std::shared_ptr<Device>& device, const Shape& shape, DType dtype) {
    const std::size_t bytes = static_cast<std::size_t>(shape.count()) * size_of(dtype);
    return Tensor(std::make_shared<Storage>(device, bytes), shape, dtype);
  }

  explicit operator bool() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }
  std::int64_t count() const { return shape_.count(); }
  std::size_t bytes() const { return static_cast<std::size_t>(count()) * size_of(dtype_); }
  const std::shared_ptr<Device>& device() const { return storage_->device(); }
  void* data() const { return storage_->data(); }
  // Null for an absent tensor.
  Buffer buffer() const { return storage_ ? Buffer{storage_->data(), dtype_} : Buffer{}; }
  // The same elements under another shape; the counts must agree (checked by the caller).
  Tensor reshaped(const Shape& shape) const { return Tensor(storage_, shape, dtype_); }
  // What is known of the elements as indices; whoever writes into a tensor takes it away.
  const IndexMark& index_mark() const { return storage_->index_mark(); }
  void set_index_mark(IndexMark mark) const { storage_->set_index_mark(std::move(mark)); }
  long use_count() const { return storage_.use_count(); }

 private:
  Tensor(std::shared_ptr<Storage> storage, const Shape& shape, DType dtype)
      : storage_(std::move(storage)), shape_(shape), dtype_(dtype) {}

  std::shared_ptr<Storage> storage_;
  Shape shape_;
  DType dtype_ = DType::kFloat32;
};

}  // namespace softmoe
