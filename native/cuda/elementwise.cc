// Elementwise, copying, summing and random kernels.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>

#include "cuda/cuda_kernels.h"
#include "cuda/kernels/elementwise_params.h"

namespace softmoe::cuda {

namespace {

constexpr unsigned kThreads = 256;
constexpr std::int64_t kBlockRows = 128;     // as in elementwise_layouts.cu
constexpr std::int64_t kLineBlock = 4096;    // alike
constexpr std::int64_t kTile = 32;           // alike
constexpr std::int64_t kBroadcastRows = 16;  // alike

// One thread for four elements.
template <class Params>
void launch_by_fours(Launcher& launcher, const char* kernel, std::int64_t count, const Params& params) {
  launcher.launch("elementwise", kernel, {divide_up(count, 4 * kThreads)}, kThreads, 0, params);
}

template <class Params>
void launch_by_ones(Launcher& launcher, const char* kernel, std::int64_t count, const Params& params) {
  launcher.launch("elementwise_layouts", kernel, {divide_up(count, kThreads)}, kThreads, 0, params);
}

std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Nearest bfloat16, ties to even.
std::uint32_t bfloat16_bits(float value) {
  const std::uint32_t bits = bits_of(value);
  if (std::isnan(value)) return bits >> 16 | 0x40u;
  return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

// The largest of 16, 4 and 2 bytes that divides all the numbers.
std::int64_t word_bytes(std::initializer_list<std::int64_t> numbers) {
  std::int64_t any = 0;
  for (const std::int64_t number : numbers) any |= number;
  return any % 16 == 0 ? 16 : any % 4 == 0 ? 4 : 2;
}

std::int64_t address_of(const void* data) {
  return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(data));
}

bool fours_are_aligned(const Buffer& buffer) {
  return address_of(buffer.data) % static_cast<std::int64_t>(4 * size_of(buffer.dtype)) == 0;
}

}  // namespace

void CudaKernels::run(const Fill& args) {
  FillBits p{args.y.data, args.count, 0, args.y.dtype == DType::kBFloat16, false};
  p.aligned = fours_are_aligned(args.y);
  if (args.y.dtype == DType::kInt32) {
    p.value = static_cast<std::uint32_t>(static_cast<std::int32_t>(args.value));
  } else if (p.is_16_bit) {
    p.value = bfloat16_bits(static_cast<float>(args.value));
  } else {
    p.value = bits_of(static_cast<float>(args.value));
  }
  launch_by_fours(launcher_, "fill", args.count, p);
}

void CudaKernels::run(const Cast& args) {
  const DType from = args.x.dtype, to = args.y.dtype;
  if (from == to) {
    launcher_.copy(args.y.data, args.x.data, static_cast<std::size_t>(args.count) * size_of(from));
  } else if (from == DType::kInt32 || to == DType::kInt32) {
    const bool to_integers = to == DType::kInt32;
    const Buffer& integers = to_integers ? args.y : args.x;
    launch_by_fours(launcher_, "cast_integers", args.count,
                    CastIntegers{any_floats(to_integers ? args.x : args.y), integers.as<std::int32_t>(),
                                 args.count, to_integers, fours_are_aligned(integers)});
  } else {
    launch_by_fours(launcher_, "cast_floats", args.count,
                    CastFloats{any_floats(args.x), any_floats(args.y), args.count});
  }
}

void CudaKernels::run(const Add& args) {
  launch_by_fours(launcher_, "add", args.count,
                  AddParams{any_floats(args.a), any_floats(args.b), any_floats(args.y), args.count,
                            args.period, static_cast<float>(args.alpha)});
}

void CudaKernels::run(const Multiply& args) {
  launch_by_fours(launcher_, "multiply", args.count,
                  MultiplyParams{any_floats(args.a), any_floats(args.b), any_floats(args.y), args.count});
}

void CudaKernels::run(const Scale& args) {
  launch_by_fours(launcher_, "scale", args.count,
                  ScaleParams{any_floats(args.x), any_floats(args.y), args.device_factor.as<float>(),
                              args.count, static_cast<float>(args.factor)});
}

void CudaKernels::run(const Activate& args) {
  launch_by_fours(launcher_, "activation", args.count,
                  ActivateParams{any_floats(args.x), any_floats(args.y), args.count, args.activation});
}

void CudaKernels::run(const ActivateBackward& args) {
  launch_by_fours(launcher_, "activation_backward", args.count,
                  ActivateBackwardParams{any_floats(args.x), any_floats(args.dy), any_floats(args.dx),
                                         args.count, args.activation});
}

void CudaKernels::run(const Dropout& args) {
  launch_by_fours(launcher_, "dropout", args.count,
                  DropoutParams{any_floats(args.x), any_floats(args.y), args.count,
                                static_cast<float>(args.rate), args.key});
}

void CudaKernels::run(const RandomFill& args) {
  launch_by_fours(launcher_, "random_fill", args.count,
                  RandomFillParams{any_floats(args.y), args.count, args.distribution,
                                   static_cast<float>(args.mean), static_cast<float>(args.scale), args.key});
}

void CudaKernels::run(const CountNonFinite& args) {
  launcher_.clear(args.y.data, sizeof(std::int32_t));
  // Enough blocks to fill the GPU; each takes its share of the elements.
  const std::int64_t blocks =
      std::min<std::int64_t>(divide_up(args.count, 4 * kThreads), 8 * launcher_.properties().multiprocessors);
  launcher_.launch("elementwise", "count_non_finite", {blocks}, kThreads, 0,
                   CountNonFiniteParams{any_floats(args.x), args.y.as<std::int32_t>(), args.count});
}

void CudaKernels::run(const StridedCopy& args) {
  const auto element = static_cast<std::int64_t>(size_of(args.x.dtype));
  const std::int64_t word =
      word_bytes({args.inner * element, args.x_stride * element, args.y_stride * element,
                  address_of(args.x.data), address_of(args.y.data)});
  const StridedCopyParams p{args.x.data,
                            args.y.data,
                            args.outer,
                            args.inner * element / word,
                            args.x_stride * element / word,
                            args.y_stride * element / word};
  const char* kernel = word == 16 ? "strided_copy_16" : word == 4 ? "strided_copy_4" : "strided_copy_2";
  launch_by_ones(launcher_, kernel, p.outer * p.inner, p);
}

void CudaKernels::run(const BroadcastMiddle& args) {
  BroadcastParams p{any_floats(args.x),
                    any_floats(args.y),
                    args.outer,
                    args.middle,
                    args.inner,
                    0,
                    static_cast<float>(args.scale)};
  std::int64_t threads = divide_up(args.outer * args.middle * args.inner, 4);
  if (args.inner % 4 == 0) {
    p.blocks = divide_up(args.middle, kBroadcastRows);
    threads = args.outer * p.blocks * (args.inner / 4);
  }
  launch_by_ones(launcher_, "broadcast", threads, p);
}

void CudaKernels::run(const SumMiddle& args) {
  const std::int64_t columns = args.outer * args.inner;
  const bool lines = args.inner == 1;
  const std::int64_t blocks =
      std::max<std::int64_t>(1, divide_up(args.middle, lines ? kLineBlock : kBlockRows));
  const float scale = static_cast<float>(args.scale);
  const Workspace partial = launcher_.workspace_of<float>(blocks > 1 ? blocks * columns : 0);
  const SumBlocks p{any_floats(args.x),
                    any_floats(args.y),
                    blocks > 1 ? partial.as<float>() : nullptr,
                    args.outer,
                    args.middle,
                    args.inner,
                    blocks,
                    scale};
  if (lines) {
    launch_by_ones(launcher_, "sum_lines", 32 * columns * blocks, p);
  } else {
    launcher_.launch("elementwise_layouts", "sum_rows", {divide_up(columns, kThreads) * blocks}, kThreads, 0,
                     p);
  }
  if (blocks > 1) {
    launch_by_ones(launcher_, "sum_of_blocks", columns,
                   SumOfBlocks{partial.as<float>(), any_floats(args.y), columns, blocks, scale});
  }
}

void CudaKernels::run(const Transpose& args) {
  const TransposeParams p{args.x.data,
                          args.y.data,
                          args.batch,
                          args.rows,
                          args.columns,
                          divide_up(args.rows, kTile),
                          divide_up(args.columns, kTile)};
  const char* kernel = size_of(args.x.dtype) == 2 ? "transpose_2" : "transpose_4";
  launcher_.launch("elementwise_layouts", kernel, {p.batch * p.row_tiles * p.column_tiles}, kThreads, 0, p);
}

void CudaKernels::run(const Patchify& args) {
  PatchifyParams p{};
  p.x = any_floats(args.x);
  p.y = any_floats(args.y);
  p.height = args.height;
  p.width = args.width;
  p.channels = args.channels;
  p.patch = args.patch;
  p.down = args.height / args.patch;
  p.across = args.width / args.patch;
  // Both sides can be read four at a time when every row of a patch begins at a multiple of four.
  p.unit = args.patch * args.channels % 4 == 0 && args.width * args.channels % 4 == 0 ? 4 : 1;
  p.inverse = args.inverse;
  p.count = args.batch * p.down * p.across * args.patch * args.patch * args.channels / p.unit;
  launch_by_ones(launcher_, "patchify", p.count, p);
}

}  // namespace softmoe::cuda
