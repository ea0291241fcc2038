// Elementwise, copying, reducing and random operations.
#pragma once

#include <optional>
#include <vector>

#include "core/tensor.h"

namespace softmoe::ops {

using DevicePointer = std::shared_ptr<Device>;

Tensor full(const DevicePointer& device, const Shape& shape, DType dtype, double value);
Tensor random(const DevicePointer& device, const Shape& shape, DType dtype, Distribution distribution,
              double mean, double scale, const RandomKey& key);
// Shares storage; the counts must agree.
Tensor reshape(const Tensor& x, const Shape& shape);
Tensor cast(const Tensor& x, DType dtype);
// a + alpha * b, where b's shape is a suffix of a's.
Tensor add(const Tensor& a, const Tensor& b, double alpha);
// a += b, same shape.
void add_in_place(const Tensor& a, const Tensor& b);
// target = source, same shape, any dtypes.
void copy_into(const Tensor& target, const Tensor& source);
void fill_in_place(const Tensor& x, double value);
Tensor multiply(const Tensor& a, const Tensor& b);
// factor * x, or factor * device_factor * x with a float32 scalar tensor.
Tensor scale(const Tensor& x, double factor, const std::optional<Tensor>& device_factor);
// Elements [start, end) of `axis`.
Tensor slice(const Tensor& x, std::int64_t axis, std::int64_t start, std::int64_t end);
// Zeros of `shape` with dy at [start, start + extent) of `axis`.
Tensor slice_backward(const Tensor& dy, const Shape& shape, std::int64_t axis, std::int64_t start);
Tensor concat(const std::vector<Tensor>& parts, std::int64_t axis);
// Sum over `axis`, which disappears, times `scale`.
Tensor sum(const Tensor& x, std::int64_t axis, double scale, DType dtype);
// Sum of everything times `scale`: a float32 scalar of shape [].
Tensor sum_all(const Tensor& x, double scale);
// Repeats x along a new axis of extent `count`, times `scale`.
Tensor broadcast(const Tensor& x, std::int64_t axis, std::int64_t count, double scale);
// A tensor of `shape` filled with the scalar x times `scale`, in `dtype`.
Tensor broadcast_scalar(const Tensor& x, const Shape& shape, DType dtype, double scale);
Tensor activate(const Tensor& x, Activation activation);
Tensor activate_backward(const Tensor& x, const Tensor& dy, Activation activation);
Tensor dropout(const Tensor& x, double rate, const RandomKey& key);
// Swaps the last two axes.
Tensor transpose(const Tensor& x);
// [batch, height, width, channels] -> [batch, (height / patch) * (width / patch), patch * patch * channels].
Tensor patchify(const Tensor& images, std::int64_t patch, DType dtype);
// The inverse; `shape` is that of the images.
Tensor unpatchify(const Tensor& patches, const Shape& shape, std::int64_t patch, DType dtype);
// int32 scalar: how many elements are NaN or infinite.
Tensor count_non_finite(const Tensor& x);

}  // namespace softmoe::ops
