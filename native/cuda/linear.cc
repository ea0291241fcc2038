// Dense products and linear layers on the products of kernels/products_*.cu.
#include "core/error.h"
#include "cuda/cuda_kernels.h"
#include "cuda/products.h"

namespace softmoe::cuda {

namespace {

std::int32_t narrow(std::int64_t value) { return static_cast<std::int32_t>(value); }

// A matrix in the type that a product needs: itself, or a copy.
class Operand {
 public:
  Operand(CudaKernels& kernels, Launcher& launcher, const Buffer& buffer, std::int64_t count, DType dtype)
      : buffer_(buffer),
        copy_(launcher.workspace(buffer.dtype == dtype ? 0
                                                       : static_cast<std::size_t>(count) * size_of(dtype))) {
    if (buffer.dtype == dtype) return;
    buffer_ = copy_.buffer(dtype);
    Cast cast;
    cast.x = buffer;
    cast.y = buffer_;
    cast.count = count;
    kernels.run(cast);
  }
  void* data() const { return buffer_.data; }

 private:
  Buffer buffer_;
  Workspace copy_;
};

// Operands of different types meet in float32.
DType common_type(const Buffer& a, const Buffer& b) { return a.dtype == b.dtype ? a.dtype : DType::kFloat32; }

}  // namespace

void CudaKernels::run(const MatMul& args) {
  const DType dtype = args.a.dtype;
  if (args.transpose_a) {
    ColumnProduct p{};
    p.a = args.a.data;
    p.b = args.b.data;
    p.y = args.y.data;
    p.groups = narrow(args.batch);
    p.rows_per_group = narrow(args.k);
    p.m = narrow(args.m);
    p.n = narrow(args.n);
    p.alpha = static_cast<float>(args.alpha);
    p.y_is_float = args.y.dtype == DType::kFloat32;
    p.accumulate = args.accumulate;
    column_product(launcher_, dtype, args.transpose_b, p);
    return;
  }
  RowProduct p{};
  p.a = args.a.data;
  p.b = args.b.data;
  p.y = args.y.data;
  p.groups = narrow(args.batch);
  p.rows_per_group = narrow(args.m);
  p.columns = narrow(args.n);
  p.depth = narrow(args.k);
  p.alpha = static_cast<float>(args.alpha);
  p.y_is_float = args.y.dtype == DType::kFloat32;
  p.accumulate = args.accumulate;
  row_product(launcher_, dtype, args.transpose_b, p);
}

void CudaKernels::run(const LinearForward& args) {
  RowProduct p{};
  p.a = args.x.data;
  p.b = args.w.data;
  p.y = args.y.data;
  p.bias = args.bias.as<float>();
  p.pre = args.pre.data;
  p.groups = 1;
  p.rows_per_group = narrow(args.rows);
  p.columns = narrow(args.out);
  p.depth = narrow(args.in);
  p.alpha = 1;
  p.activation = args.activation;
  p.y_is_float = args.y.dtype == DType::kFloat32;
  row_product(launcher_, args.x.dtype, false, p);
}

void CudaKernels::run(const LinearBackwardInput& args) {
  const DType dtype = common_type(args.dy, args.w);
  const Operand dy(*this, launcher_, args.dy, args.rows * args.out, dtype);
  const Operand w(*this, launcher_, args.w, args.in * args.out, dtype);
  RowProduct p{};
  p.a = dy.data();
  p.b = w.data();
  p.y = args.dx.data;
  p.groups = 1;
  p.rows_per_group = narrow(args.rows);
  p.columns = narrow(args.in);
  p.depth = narrow(args.out);
  p.alpha = 1;
  p.y_is_float = args.dx.dtype == DType::kFloat32;
  row_product(launcher_, dtype, true, p);
}

void CudaKernels::run(const LinearBackwardWeight& args) {
  const DType dtype = common_type(args.x, args.dy);
  const Operand x(*this, launcher_, args.x, args.rows * args.in, dtype);
  const Operand dy(*this, launcher_, args.dy, args.rows * args.out, dtype);
  ColumnProduct p{};
  p.a = x.data();
  p.b = dy.data();
  p.y = args.dw.data;
  p.column_sums = args.dbias.as<float>();
  p.groups = 1;
  p.rows_per_group = narrow(args.rows);
  p.m = args.dw ? narrow(args.in) : 0;
  p.n = narrow(args.out);
  p.alpha = 1;
  p.y_is_float = true;
  column_product(launcher_, dtype, false, p);
}

}  // namespace softmoe::cuda
