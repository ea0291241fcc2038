#include "ops/elementwise.h"

#include "ops/check.h"

namespace softmoe::ops {

namespace {

int checked_axis(const Check& check, const Shape& shape, std::int64_t axis) {
  check.that(axis >= 0 && axis < shape.rank(), "axis " + std::to_string(axis) + " of a tensor of shape " +
                                                   shape.text() + "; wanted 0 to " +
                                                   std::to_string(shape.rank() - 1));
  return static_cast<int>(axis);
}

Shape with_extent(const Shape& shape, int axis, std::int64_t extent) {
  std::int64_t dims[Shape::kMaxRank];
  for (int i = 0; i < shape.rank(); ++i) dims[i] = i == axis ? extent : shape[i];
  return Shape(dims, shape.rank());
}

Shape without_axis(const Shape& shape, int axis) {
  std::int64_t dims[Shape::kMaxRank];
  int rank = 0;
  for (int i = 0; i < shape.rank(); ++i) {
    if (i != axis) dims[rank++] = shape[i];
  }
  return Shape(dims, rank);
}

Buffer offset(const Tensor& tensor, std::int64_t elements) {
  return {static_cast<char*>(tensor.data()) + elements * static_cast<std::int64_t>(size_of(tensor.dtype())),
          tensor.dtype()};
}

Tensor like(const Tensor& x) { return Tensor::empty(x.device(), x.shape(), x.dtype()); }

}  // namespace

Tensor full(const DevicePointer& device, const Shape& shape, DType dtype, double value) {
  const Tensor y = Tensor::empty(device, shape, dtype);
  device->launch(Fill{y.buffer(), y.count(), value});
  return y;
}

Tensor random(const DevicePointer& device, const Shape& shape, DType dtype, Distribution distribution,
              double mean, double scale, const RandomKey& key) {
  const Check check("random");
  check.that(dtype != DType::kInt32, "dtype is int32; wanted float32 or bfloat16");
  check.finite("mean", mean);
  check.finite("scale", scale);
  const Tensor y = Tensor::empty(device, shape, dtype);
  RandomFill args;
  args.y = y.buffer();
  args.count = y.count();
  args.distribution = distribution;
  args.mean = mean;
  args.scale = scale;
  args.key = key;
  device->launch(args);
  return y;
}

Tensor reshape(const Tensor& x, const Shape& shape) {
  if (x.count() != shape.count()) {
    throw Error("ERR_SHAPE", "reshape: shape " + x.shape().text() + " has " + std::to_string(x.count()) +
                                 " elements, " + shape.text() + " has " + std::to_string(shape.count()) +
                                 "; the counts must agree");
  }
  return x.reshaped(shape);
}

Tensor cast(const Tensor& x, DType dtype) {
  const Tensor y = Tensor::empty(x.device(), x.shape(), dtype);
  x.device()->launch(Cast{x.buffer(), y.buffer(), x.count()});
  return y;
}

Tensor add(const Tensor& a, const Tensor& b, double alpha) {
  const Check check("add");
  check.same_device({&a, &b});
  check.floating("a", a);
  check.floating("b", b);
  bool suffix = b.shape().rank() <= a.shape().rank();
  for (int i = 1; suffix && i <= b.shape().rank(); ++i) suffix = a.shape()[-i] == b.shape()[-i];
  if (!suffix) {
    throw Error("ERR_SHAPE", "add: b has shape " + b.shape().text() + ", which is not the end of a's shape " +
                                 a.shape().text());
  }
  const Tensor y = like(a);
  a.device()->launch(Add{a.buffer(), b.buffer(), y.buffer(), a.count(), b.count(), alpha});
  return y;
}

void add_in_place(const Tensor& a, const Tensor& b) {
  const Check check("add_in_place");
  check.same_device({&a, &b});
  check.same_shape("b", b, "a", a);
  check.floating("a", a);
  check.floating("b", b);
  a.device()->launch(Add{a.buffer(), b.buffer(), a.buffer(), a.count(), a.count(), 1});
}

void copy_into(const Tensor& target, const Tensor& source) {
  const Check check("copy_into");
  check.same_device({&target, &source});
  check.same_shape("source", source, "target", target);
  target.set_index_mark({});
  target.device()->launch(Cast{source.buffer(), target.buffer(), target.count()});
}

void fill_in_place(const Tensor& x, double value) {
  x.set_index_mark({});
  x.device()->launch(Fill{x.buffer(), x.count(), value});
}

Tensor multiply(const Tensor& a, const Tensor& b) {
  const Check check("multiply");
  check.same_device({&a, &b});
  check.same_shape("b", b, "a", a);
  check.floating("a", a);
  check.same_dtype("b", b, "a", a);
  const Tensor y = like(a);
  a.device()->launch(Multiply{a.buffer(), b.buffer(), y.buffer(), a.count()});
  return y;
}

Tensor scale(const Tensor& x, double factor, const std::optional<Tensor>& device_factor) {
  const Check check("scale");
  check.same_device({&x, pointer(device_factor)});
  check.floating("x", x);
  if (device_factor) {
    check.dtype("factor", *device_factor, DType::kFloat32);
    check.that(device_factor->count() == 1,
               "factor has shape " + device_factor->shape().text() + "; wanted a scalar");
  }
  const Tensor y = like(x);
  x.device()->launch(Scale{x.buffer(), y.buffer(), buffer(device_factor), x.count(), factor});
  return y;
}

Tensor slice(const Tensor& x, std::int64_t axis, std::int64_t start, std::int64_t end) {
  const Check check("slice");
  const int at = checked_axis(check, x.shape(), axis);
  check.that(start >= 0 && start <= end && end <= x.shape()[at],
             "elements " + std::to_string(start) + " to " + std::to_string(end) + " of an axis of extent " +
                 std::to_string(x.shape()[at]) + "; wanted 0 <= start <= end <= extent");
  const std::int64_t inner = x.shape().count_from(at + 1);
  const Tensor y = Tensor::empty(x.device(), with_extent(x.shape(), at, end - start), x.dtype());
  x.device()->launch(StridedCopy{offset(x, start * inner), y.buffer(), x.shape().count_before(at),
                                 (end - start) * inner, x.shape()[at] * inner, (end - start) * inner});
  return y;
}

Tensor slice_backward(const Tensor& dy, const Shape& shape, std::int64_t axis, std::int64_t start) {
  const Check check("slice_backward");
  const int at = checked_axis(check, shape, axis);
  const std::int64_t inner = shape.count_from(at + 1);
  const std::int64_t extent = dy.shape()[at];
  const Tensor dx = full(dy.device(), shape, dy.dtype(), 0);
  dy.device()->launch(StridedCopy{dy.buffer(), offset(dx, start * inner), shape.count_before(at),
                                  extent * inner, extent * inner, shape[at] * inner});
  return dx;
}

Tensor concat(const std::vector<Tensor>& parts, std::int64_t axis) {
  const Check check("concat");
  check.that(!parts.empty(), "no tensors were given; wanted at least one");
  const Tensor& first = parts.front();
  const int at = checked_axis(check, first.shape(), axis);
  std::int64_t extent = 0;
  for (const Tensor& part : parts) {
    check.same_device({&first, &part});
    check.same_dtype("a part", part, "the first part", first);
    if (part.shape().rank() != first.shape().rank() ||
        with_extent(part.shape(), at, 0) != with_extent(first.shape(), at, 0)) {
      throw Error("ERR_SHAPE", "concat: shapes " + first.shape().text() + " and " + part.shape().text() +
                                   " differ in more than axis " + std::to_string(axis));
    }
    extent += part.shape()[at];
  }
  const Tensor y = Tensor::empty(first.device(), with_extent(first.shape(), at, extent), first.dtype());
  const std::int64_t inner = first.shape().count_from(at + 1);
  std::int64_t start = 0;
  for (const Tensor& part : parts) {
    const std::int64_t length = part.shape()[at] * inner;
    first.device()->launch(StridedCopy{part.buffer(), offset(y, start), first.shape().count_before(at),
                                       length, length, extent * inner});
    start += length;
  }
  return y;
}

Tensor sum(const Tensor& x, std::int64_t axis, double scale, DType dtype) {
  const Check check("sum");
  check.floating("x", x);
  check.that(dtype == DType::kFloat32 || dtype == x.dtype(), "the result is float32 or has x's dtype");
  const int at = checked_axis(check, x.shape(), axis);
  const Tensor y = Tensor::empty(x.device(), without_axis(x.shape(), at), dtype);
  x.device()->launch(SumMiddle{x.buffer(), y.buffer(), x.shape().count_before(at), x.shape()[at],
                               x.shape().count_from(at + 1), scale});
  return y;
}

Tensor sum_all(const Tensor& x, double scale) {
  const Check check("sum");
  check.floating("x", x);
  const Tensor y = Tensor::empty(x.device(), Shape(), DType::kFloat32);
  x.device()->launch(SumMiddle{x.buffer(), y.buffer(), 1, x.count(), 1, scale});
  return y;
}

Tensor broadcast(const Tensor& x, std::int64_t axis, std::int64_t count, double scale) {
  const Check check("broadcast");
  check.floating("x", x);
  check.that(axis >= 0 && axis <= x.shape().rank() && x.shape().rank() < Shape::kMaxRank,
             "axis " + std::to_string(axis) + " cannot be added to shape " + x.shape().text());
  check.that(count >= 0, "count is " + std::to_string(count) + "; wanted 0 or more");
  std::int64_t dims[Shape::kMaxRank];
  int rank = 0;
  for (int i = 0; i <= x.shape().rank(); ++i) {
    if (i == axis) dims[rank++] = count;
    if (i < x.shape().rank()) dims[rank++] = x.shape()[i];
  }
  const Tensor y = Tensor::empty(x.device(), Shape(dims, rank), x.dtype());
  x.device()->launch(BroadcastMiddle{x.buffer(), y.buffer(), x.shape().count_before(static_cast<int>(axis)),
                                     count, x.shape().count_from(static_cast<int>(axis)), scale});
  return y;
}

Tensor broadcast_scalar(const Tensor& x, const Shape& shape, DType dtype, double scale) {
  const Check check("broadcast");
  check.floating("x", x);
  check.that(x.count() == 1, "x has shape " + x.shape().text() + "; wanted a scalar");
  const Tensor y = Tensor::empty(x.device(), shape, dtype);
  x.device()->launch(BroadcastMiddle{x.buffer(), y.buffer(), 1, y.count(), 1, scale});
  return y;
}

Tensor activate(const Tensor& x, Activation activation) {
  Check("activation").floating("x", x);
  const Tensor y = like(x);
  x.device()->launch(Activate{x.buffer(), y.buffer(), x.count(), activation});
  return y;
}

Tensor activate_backward(const Tensor& x, const Tensor& dy, Activation activation) {
  const Check check("activation_backward");
  check.same_device({&x, &dy});
  check.same_shape("dy", dy, "x", x);
  const Tensor dx = like(x);
  x.device()->launch(ActivateBackward{x.buffer(), dy.buffer(), dx.buffer(), x.count(), activation});
  return dx;
}

Tensor dropout(const Tensor& x, double rate, const RandomKey& key) {
  const Check check("dropout");
  check.floating("x", x);
  check.probability("rate", rate);
  const Tensor y = like(x);
  x.device()->launch(Dropout{x.buffer(), y.buffer(), x.count(), rate, key});
  return y;
}

Tensor transpose(const Tensor& x) {
  const Check check("transpose");
  check.min_rank("x", x, 2, "[..., rows, columns]");
  const int rank = x.shape().rank();
  const std::int64_t rows = x.shape()[-2], columns = x.shape()[-1];
  const Shape shape = with_extent(with_extent(x.shape(), rank - 2, columns), rank - 1, rows);
  const Tensor y = Tensor::empty(x.device(), shape, x.dtype());
  x.device()->launch(Transpose{x.buffer(), y.buffer(), x.shape().count_before(rank - 2), rows, columns});
  return y;
}

Tensor patchify(const Tensor& images, std::int64_t patch, DType dtype) {
  const Check check("patchify");
  check.floating("images", images);
  check.rank("images", images, 4, "[batch, height, width, channels]");
  const Shape& s = images.shape();
  check.that(patch > 0 && s[1] % patch == 0 && s[2] % patch == 0,
             "patches of " + std::to_string(patch) + " pixels do not tile images of " + std::to_string(s[1]) +
                 " x " + std::to_string(s[2]) + "; choose a patch size that divides both");
  const Tensor y =
      Tensor::empty(images.device(), {s[0], (s[1] / patch) * (s[2] / patch), patch * patch * s[3]}, dtype);
  images.device()->launch(Patchify{images.buffer(), y.buffer(), s[0], s[1], s[2], s[3], patch, false});
  return y;
}

Tensor unpatchify(const Tensor& patches, const Shape& shape, std::int64_t patch, DType dtype) {
  const Check check("unpatchify");
  check.floating("patches", patches);
  check.that(shape.rank() == 4 && shape.count() == patches.count(),
             "patches of shape " + patches.shape().text() + " do not make images of shape " + shape.text());
  const Tensor y = Tensor::empty(patches.device(), shape, dtype);
  patches.device()->launch(
      Patchify{patches.buffer(), y.buffer(), shape[0], shape[1], shape[2], shape[3], patch, true});
  return y;
}

Tensor count_non_finite(const Tensor& x) {
  Check("count_non_finite").floating("x", x);
  const Tensor y = Tensor::empty(x.device(), Shape(), DType::kInt32);
  x.device()->launch(CountNonFinite{x.buffer(), y.buffer(), x.count()});
  return y;
}

}  // namespace softmoe::ops
