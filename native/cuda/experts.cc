// The batched expert MLP: two row products forward; backward two more and two column products. Nothing
// between them but the hidden activations, which the first product writes already activated.
#include <string>

#include "cuda/cuda_kernels.h"
#include "cuda/kernels/experts_params.h"
#include "cuda/products.h"

namespace softmoe::cuda {

namespace {

std::int32_t narrow(std::int64_t value) { return static_cast<std::int32_t>(value); }

std::int64_t row_count(const ExpertRows& rows) {
  return rows.offsets ? rows.max_rows : rows.num_experts * rows.rows_per_expert;
}

RowProduct row_product_of(const ExpertRows& rows, const void* a, const Buffer& b, const Buffer& y,
                          std::int64_t depth, std::int64_t columns) {
  RowProduct p{};
  p.a = a;
  p.b = b.data;
  p.y = y.data;
  p.groups = narrow(rows.num_experts);
  p.rows_per_group = narrow(rows.rows_per_expert);
  p.depth = narrow(depth);
  p.columns = narrow(columns);
  p.alpha = 1;
  p.y_is_float = y.dtype == DType::kFloat32;
  return p;
}

ColumnProduct column_product_of(const ExpertRows& rows, const void* a, const void* b, const Buffer& dw,
                                const Buffer& db, std::int64_t m, std::int64_t n) {
  ColumnProduct p{};
  p.a = a;
  p.b = b;
  p.y = dw.data;
  p.column_sums = db.as<float>();
  p.offsets = rows.offsets;
  p.groups = narrow(rows.num_experts);
  p.rows_per_group = narrow(rows.rows_per_expert);
  p.m = narrow(m);
  p.n = narrow(n);
  p.alpha = 1;
  p.y_is_float = true;
  return p;
}

}  // namespace

void CudaKernels::run(const ExpertsForward& args) {
  const ExpertRows& rows = args.rows;
  const DType dtype = args.x.dtype;
  const Workspace hidden =
      launcher_.workspace(static_cast<std::size_t>(row_count(rows) * args.hidden) * size_of(dtype));
  RowProduct up = row_product_of(rows, args.x.data, args.w1, hidden.buffer(dtype), args.dim, args.hidden);
  up.gather = rows.gather;
  up.bias = args.b1.as<float>();
  up.pre = args.pre.data;
  up.activation = args.activation;
  up.dropout_rate = static_cast<float>(args.dropout_rate);
  up.dropout_key = args.key;
  row_product(launcher_, dtype, false, up, rows.offsets, rows.max_rows);

  RowProduct down = row_product_of(rows, hidden.as<void>(), args.w2, args.y, args.hidden, args.out);
  down.bias = args.b2.as<float>();
  down.dropout_rate = up.dropout_rate;
  down.dropout_key = {args.key.seed, args.key.stream + 1};
  row_product(launcher_, dtype, false, down, rows.offsets, rows.max_rows);
}

void CudaKernels::run(const ExpertsBackward& args) {
  const ExpertRows& rows = args.rows;
  const DType dtype = args.x.dtype;
  const std::int64_t count = row_count(rows);
  const bool drops = args.dropout_rate > 0, wants_weights = static_cast<bool>(args.dw1);
  const auto matrix = [&](std::int64_t columns) {
    return launcher_.workspace(static_cast<std::size_t>(count * columns) * size_of(dtype));
  };

  // dz = dy behind the outer dropout.
  const Workspace dropped = matrix(drops ? args.out : 0);
  const void* dz = drops ? dropped.as<void>() : args.dy.data;
  if (drops) {
    const DropRows drop{args.dy.data,
                        dropped.as<void>(),
                        rows.offsets ? rows.offsets + rows.num_experts : nullptr,
                        count,
                        args.out,
                        static_cast<float>(args.dropout_rate),
                        {args.key.seed, args.key.stream + 1}};
    const std::string name = std::string("expert_drop_rows_") + name_of(dtype);
    launcher_.launch("experts", name.c_str(), {divide_up(count * args.out, 4 * 256)}, 256, 0, drop);
  }

  // dpre = (dz w2^T) * mask * activation'(pre), and the hidden activations anew for dw2.
  const Workspace dpre = matrix(args.hidden), hidden = matrix(wants_weights ? args.hidden : 0);
  RowProduct back = row_product_of(rows, dz, args.w2, dpre.buffer(dtype), args.out, args.hidden);
  back.derivative_at = args.pre.data;
  back.activated = wants_weights ? hidden.as<void>() : nullptr;
  back.activation = args.activation;
  back.dropout_rate = static_cast<float>(args.dropout_rate);
  back.dropout_key = args.key;
  row_product(launcher_, dtype, true, back, rows.offsets, rows.max_rows);

  if (args.dx) {
    row_product(launcher_, dtype, true,
                row_product_of(rows, dpre.as<void>(), args.w1, args.dx, args.hidden, args.dim), rows.offsets,
                rows.max_rows);
  }
  if (!wants_weights) return;
  ColumnProduct first =
      column_product_of(rows, args.x.data, dpre.as<void>(), args.dw1, args.db1, args.dim, args.hidden);
  first.gather = rows.gather;
  column_product(launcher_, dtype, false, first, rows.max_rows);
  column_product(launcher_, dtype, false,
                 column_product_of(rows, hidden.as<void>(), dz, args.dw2, args.db2, args.hidden, args.out),
                 rows.max_rows);
}

}  // namespace softmoe::cuda
