// Multi-head attention, forward and backward.
#include <string>

#include "core/error.h"
#include "cuda/cuda_kernels.h"
#include "cuda/kernels/attention_params.h"
#include "cuda/products.h"

namespace softmoe::cuda {

namespace {

constexpr std::int64_t kNarrowHead = 8;  // float32 heads up to this length are computed in float64
constexpr std::int64_t kLargestHead = 256;
constexpr unsigned kNarrowThreads = 128;

// As in attention.cu and attention_gradients.cu.
struct Tiles {
  Tiles(DType dtype, std::int64_t head_dim)
      : padded(head_dim <= 64    ? 64
               : head_dim <= 128 ? 128
                                 : 256),
        warps(dtype == DType::kFloat32 && is_long() ? 2 : 4),
        forward_stream(64 / (dtype == DType::kFloat32 ? 2 : 1) / (is_long() ? 2 : 1)),
        gradient_stream(is_long() ? 16 : 32) {}
  bool is_long() const { return padded == 256; }
  std::int64_t own_rows() const { return 16 * warps; }
  unsigned threads() const { return static_cast<unsigned>(32 * warps); }

  std::int64_t padded, warps, forward_stream, gradient_stream;
};

bool is_narrow(const Buffer& q, std::int64_t head_dim) {
  return q.dtype == DType::kFloat32 && head_dim <= kNarrowHead;
}

template <class Args>
AttentionParams params_of(const Args& args) {
  // Users are told at the call (ops/attention.cc).
  if (args.head_dim > kLargestHead) throw Error("ERR_INTERNAL", "the attention kernels take heads up to 256");
  AttentionParams p{};
  p.q = args.q.data;
  p.k = args.k.data;
  p.v = args.v.data;
  p.o = args.o.data;
  p.log_sum_exp = args.log_sum_exp.template as<float>();
  p.heads = static_cast<std::int32_t>(args.heads);
  p.queries = static_cast<std::int32_t>(args.queries);
  p.keys = static_cast<std::int32_t>(args.keys);
  p.dim = static_cast<std::int32_t>(args.head_dim);
  p.head_count = args.batch * args.heads;
  p.scale = args.scale;
  p.dropout_rate = args.dropout_rate;
  p.key = args.key;
  p.aligned = true;
  for (const void* data : {args.q.data, args.k.data, args.v.data, args.o.data}) {
    p.aligned = p.aligned && rows_are_aligned(data, args.head_dim, args.q.dtype);
  }
  return p;
}

// `own`: owned operands. Two operands are streamed, in two stages where they are bfloat16.
std::size_t shared_bytes(const Tiles& tiles, std::int64_t own, std::int64_t stream, DType dtype) {
  const std::int64_t row = tiles.padded * static_cast<std::int64_t>(size_of(dtype));
  const std::int64_t stages = dtype == DType::kFloat32 ? 1 : 2;
  return static_cast<std::size_t>((own * tiles.own_rows() + stages * 2 * stream) * row);
}

void launch_tiles(Launcher& launcher, const char* file, const char* kernel, const Tiles& tiles, DType dtype,
                  std::int64_t rows, std::size_t shared, AttentionParams p) {
  p.tiles = static_cast<std::int32_t>(divide_up(rows, tiles.own_rows()));
  const std::string name = std::string(kernel) + "_" + name_of(dtype) + "_" + std::to_string(tiles.padded);
  launcher.launch(file, name.c_str(), {p.head_count * p.tiles}, tiles.threads(), shared, p);
}

void launch_narrow(Launcher& launcher, const char* kernel, std::int64_t count, const AttentionParams& p) {
  launcher.launch("narrow_attention", kernel, {divide_up(count, kNarrowThreads)}, kNarrowThreads, 0, p);
}

}  // namespace

void CudaKernels::run(const AttentionForward& args) {
  AttentionParams p = params_of(args);
  if (is_narrow(args.q, args.head_dim)) {
    launch_narrow(launcher_, "narrow_attention", p.head_count * p.queries, p);
    return;
  }
  const DType dtype = args.q.dtype;
  const Tiles tiles(dtype, args.head_dim);
  launch_tiles(launcher_, "attention", "attention", tiles, dtype, args.queries,
               shared_bytes(tiles, 1, tiles.forward_stream, dtype), p);
}

void CudaKernels::run(const AttentionBackward& args) {
  AttentionParams p = params_of(args);
  p.d_o = args.d_o.data;
  p.dq = args.dq.data;
  p.dk = args.dk.data;
  p.dv = args.dv.data;
  for (const void* data : {args.d_o.data, args.dq.data, args.dk.data, args.dv.data}) {
    p.aligned = p.aligned && rows_are_aligned(data, args.head_dim, args.q.dtype);
  }
  const std::int64_t rows = p.head_count * p.queries;
  if (is_narrow(args.q, args.head_dim)) {
    const Workspace statistics = launcher_.workspace_of<double>(3 * rows);
    p.statistics = statistics.as<double>();
    launch_narrow(launcher_, "narrow_attention_queries_gradient", rows, p);
    launch_narrow(launcher_, "narrow_attention_keys_gradient", p.head_count * p.keys, p);
    return;
  }
  const Workspace row_dots = launcher_.workspace_of<float>(rows);
  launcher_.launch("attention_gradients", "attention_row_dots", {divide_up(rows, 8)}, 256, 0,
                   AttentionRowDots{any_floats(args.o), any_floats(args.d_o), row_dots.as<float>(), rows,
                                    p.heads, p.queries, p.dim});
  p.row_dots = row_dots.as<float>();
  const DType dtype = args.q.dtype;
  const Tiles tiles(dtype, args.head_dim);
  const std::size_t shared = shared_bytes(tiles, 2, tiles.gradient_stream, dtype);
  const auto launch = [&](const char* kernel, std::int64_t own_rows) {
    launch_tiles(launcher_, "attention_gradients", kernel, tiles, dtype, own_rows, shared, p);
  };
  launch("attention_queries_gradient", args.queries);
  launch("attention_keys_gradient", args.keys);
  if (tiles.is_long()) launch("attention_values_gradient", args.keys);
}

}  // namespace softmoe::cuda
