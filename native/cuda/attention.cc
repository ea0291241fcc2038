// Multi-head attention, forward and backward.
#include <string>

#include "core/error.h"
#include "cuda/cuda_kernels.h"
#include "cuda/kernels/attention_params.h"
#include "cuda/products.h"

namespace softmoe::cuda {

namespace {

constexpr std::int64_t kOwnRows = 64;  // as in attention_tiles.cuh
// As in attention.cu and attention_gradients.cu.
constexpr std::int64_t kGradientStream = 32;
std::int64_t forward_stream(DType dtype) { return dtype == DType::kFloat32 ? 32 : 64; }
constexpr std::int64_t kNarrowHead = 8;  // float32 heads up to this length are computed in float64
constexpr std::int64_t kLargestHead = 128;
constexpr unsigned kThreads = 128;

bool is_narrow(const Buffer& q, std::int64_t head_dim) {
  return q.dtype == DType::kFloat32 && head_dim <= kNarrowHead;
}

template <class Args>
AttentionParams params_of(const Args& args) {
  // Users are told at the call (ops/attention.cc).
  if (args.head_dim > kLargestHead) throw Error("ERR_INTERNAL", "the attention kernels take heads up to 128");
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

std::int64_t padded(std::int64_t head_dim) { return head_dim <= 64 ? 64 : 128; }

// `own`: owned operands. Two operands are streamed, in two stages where they are bfloat16.
std::size_t shared_bytes(std::int64_t own, std::int64_t stream, std::int64_t head_dim, DType dtype) {
  const std::int64_t row = padded(head_dim) * static_cast<std::int64_t>(size_of(dtype));
  const std::int64_t stages = dtype == DType::kFloat32 ? 1 : 2;
  return static_cast<std::size_t>((own * kOwnRows + stages * 2 * stream) * row);
}

std::string kernel_name(const char* kernel, const Buffer& q, std::int64_t head_dim) {
  return std::string(kernel) + "_" + name_of(q.dtype) + "_" + std::to_string(padded(head_dim));
}

void launch_narrow(Launcher& launcher, const char* kernel, std::int64_t count, const AttentionParams& p) {
  launcher.launch("narrow_attention", kernel, {divide_up(count, kThreads)}, kThreads, 0, p);
}

}  // namespace

void CudaKernels::run(const AttentionForward& args) {
  AttentionParams p = params_of(args);
  if (is_narrow(args.q, args.head_dim)) {
    launch_narrow(launcher_, "narrow_attention", p.head_count * p.queries, p);
    return;
  }
  p.tiles = static_cast<std::int32_t>(divide_up(args.queries, kOwnRows));
  launcher_.launch("attention", kernel_name("attention", args.q, args.head_dim).c_str(),
                   {p.head_count * p.tiles}, kThreads,
                   shared_bytes(1, forward_stream(args.q.dtype), args.head_dim, args.q.dtype), p);
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
  const std::size_t shared = shared_bytes(2, kGradientStream, args.head_dim, args.q.dtype);
  p.tiles = static_cast<std::int32_t>(divide_up(args.queries, kOwnRows));
  launcher_.launch("attention_gradients",
                   kernel_name("attention_queries_gradient", args.q, args.head_dim).c_str(),
                   {p.head_count * p.tiles}, kThreads, shared, p);
  p.tiles = static_cast<std::int32_t>(divide_up(args.keys, kOwnRows));
  launcher_.launch("attention_gradients",
                   kernel_name("attention_keys_gradient", args.q, args.head_dim).c_str(),
                   {p.head_count * p.tiles}, kThreads, shared, p);
}

}  // namespace softmoe::cuda
