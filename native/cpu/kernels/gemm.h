// The one matrix product of the CPU backend: C[i, j] = sum over k of A[i, k] B[k, j], in float32
// accumulators.
//
// A and B are packed panel by panel by operands (gemm_operands.h), which is where transposition, conversion,
// gathering and weights made on the fly happen; a finished tile of C goes to an epilogue, which is where
// bias, activation, scaling and storing happen. Each element of C is one chain of multiply-adds over
// ascending k, whatever the block, the number of rows or of threads, so its bits depend on its row of A and
// its column of B alone.
#pragma once

#include "core/dtype.h"
#include "cpu/kernels/simd.h"
#include "cpu/scratch.h"
#include "cpu/thread_pool.h"

namespace softmoe::cpu::SOFTMOE_ISA {

// Registers decide the tile: accumulators kRows x kTileVectors, kTileVectors of B and one or two of A.
//   AVX-512 (32 registers): 14 x 2 + 2 + 2      AVX2, SSE4 (16): 6 x 2 + 2 + 2      NEON (32): 8 x 3 + 3 + 1
#if defined(SOFTMOE_WIDE_VECTORS)
constexpr int kTileRows = 14, kTileVectors = 2;
#elif defined(SOFTMOE_ISA_NEON)
constexpr int kTileRows = 8, kTileVectors = 3;
#else
constexpr int kTileRows = 6, kTileVectors = 2;
#endif
constexpr int kTileColumns = kTileVectors * kLanes;

// Elements of depth packed at a time. A panel of A (kTileRows x 384 x 4 bytes = 21 KiB with AVX-512, 32 x 192
// x 4 = 24 KiB with tiles) stays in the L1 cache while panels of B stream from L2.
#if defined(SOFTMOE_ISA_AMX)
constexpr int kDepthBlock = 192;
#else
constexpr int kDepthBlock = 384;
#endif
// Distance of rows in a packed panel of A. Not a multiple of 4096 bytes, so that rows fall in different cache
// sets.
constexpr int kPanelStride = kDepthBlock + 16;

// What the microkernel multiplies: float32 …
struct Float32Format {
  using Element = float;
  using Loose = float;                   // an element as it lies in memory
  static constexpr int kPerElement = 1;  // steps of k in an element
  static constexpr int kRows = kTileRows;
  static constexpr int kDepthUnit = 1;  // packed depth is a multiple of this
};

// … or pairs of bfloat16 (k, k + 1), for sets with such an instruction.
#if defined(SOFTMOE_ISA_AVX512BF16) || defined(SOFTMOE_ISA_AMX)
#define SOFTMOE_BFLOAT16_PRODUCTS 1
struct BFloat16Format {
  using Element = std::uint32_t;
  typedef std::uint32_t Loose __attribute__((aligned(2), may_alias));
  static constexpr int kPerElement = 2;
#if defined(SOFTMOE_ISA_AMX)
  static constexpr int kRows = 32;
  static constexpr int kDepthUnit = 16;
#else
  static constexpr int kRows = kTileRows;
  static constexpr int kDepthUnit = 1;
#endif
};
// The format for operands stored as T.
template <class T>
using FormatOf = std::conditional_t<sizeof(T) == 2, BFloat16Format, Float32Format>;
#else
template <class T>
using FormatOf = Float32Format;
#endif

// The low (half 0) or high (half 1) lanes of two vectors of 16-bit numbers in turns.
typedef std::uint16_t PairVec __attribute__((vector_size(4 * kLanes)));
typedef std::uint16_t LoosePairVec __attribute__((vector_size(4 * kLanes), aligned(2), may_alias));

template <std::size_t... kLane>
inline UintVec interleave(PairVec low, PairVec high, int half, std::index_sequence<kLane...>) {
#if defined(__clang__)
  return half == 0
             ? (UintVec)__builtin_shufflevector(low, high, (kLane / 2 + kLane % 2 * 2 * kLanes)...)
             : (UintVec)__builtin_shufflevector(low, high, (kLanes + kLane / 2 + kLane % 2 * 2 * kLanes)...);
#else
  return half == 0 ? (UintVec)__builtin_shuffle(low, high, PairVec{(kLane / 2 + kLane % 2 * 2 * kLanes)...})
                   : (UintVec)__builtin_shuffle(low, high,
                                                PairVec{(kLanes + kLane / 2 + kLane % 2 * 2 * kLanes)...});
#endif
}

// Cache lines that are wanted soon: a microkernel asks for one in each step.
class LinesAhead {
 public:
  static constexpr int kMost = 128;
  // The `count` lines from the one that holds `p` on, as far as there is room.
  void add(const void* p, std::int64_t count) {
    const char* line = static_cast<const char*>(p);
    const int room = static_cast<int>(smaller<std::int64_t>(count, kMost - count_));
    for (int i = 0; i < room; ++i) lines_[count_ + i] = line + 64 * i;
    count_ += room;
  }
  void clear() { count_ = 0; }
  const char* const* begin() const { return lines_; }
  int count() const { return count_; }

 private:
  const char* lines_[kMost];
  int count_ = 0;
};

// Part `part` of `parts` of a piece of an operand that will be packed later.
struct PartAhead {
  std::int64_t part = 0, parts = 1;
  std::int64_t begin(std::int64_t count) const { return part * count / parts; }
  std::int64_t end(std::int64_t count) const { return (part + 1) * count / parts; }
};

template <class Format>
class LeftOperand {
 public:
  // True: panel[k][kRows]; false: panel[row][kPanelStride].
  virtual bool packs_columns() const = 0;
  // Packs rows [row, row + rows), rows <= kRows, and steps [k, k + depth) of A.
  virtual void pack(typename Format::Element* panel, std::int64_t row, int rows, std::int64_t k,
                    int depth) const = 0;
  // Where A lies in memory just as a microkernel can read it: element k of row i at data[i * stride + k].
  // False when it must be packed.
  virtual bool in_memory(const typename Format::Loose** data, std::int64_t* stride) const = 0;
  // Adds the cache lines that a part of that call will read, for the microkernel to ask for in time. A hint:
  // none for what is not in memory.
  virtual void add_lines(LinesAhead& lines, std::int64_t row, int rows, std::int64_t k, int depth,
                         PartAhead part) const = 0;

 protected:
  ~LeftOperand() = default;
};

// Where the next packing will begin, to ask the caches for it in time; it takes as many steps and columns as
// this one. Column -1: unknown.
struct NextPiece {
  std::int64_t column = -1, k = 0;
};

template <class Format>
class RightOperand {
 public:
  // Packs columns [column, column + columns) and steps [k, k + depth) of B into panels [depth][kTileColumns],
  // zeros beyond the last column; `panel_size` elements from panel to panel.
  virtual void pack(typename Format::Element* panels, std::int64_t panel_size, std::int64_t column,
                    std::int64_t columns, std::int64_t k, int depth, NextPiece next) const = 0;
  // Adds the cache lines that a part of that call will read. A hint.
  virtual void add_lines(LinesAhead& lines, std::int64_t column, std::int64_t columns, std::int64_t k,
                         int depth, PartAhead part) const = 0;
  // Where B lies in memory just as a microkernel can read it: row k of B at `data` + k * `stride` bytes, in
  // the format's stored type (float, bfloat16). False when it must be packed.
  virtual bool in_memory(const char** data, std::int64_t* stride) const = 0;

 protected:
  ~RightOperand() = default;
};

class Epilogue {
 public:
  // tile[r * stride + c] is C[row + r, column + c].
  virtual void apply(const float* tile, std::int64_t stride, std::int64_t row, int rows, std::int64_t column,
                     std::int64_t columns) = 0;

 protected:
  ~Epilogue() = default;
};

// An epilogue that takes the tile vector by vector: body(row, column, values, count), count <= kLanes. A body
// that captures by value keeps what it captured in registers.
template <class Body>
class VectorEpilogue final : public Epilogue {
 public:
  explicit VectorEpilogue(const Body& body) : body_(body) {}
  void apply(const float* tile, std::int64_t stride, std::int64_t row, int rows, std::int64_t column,
             std::int64_t columns) override {
    const std::int64_t whole = columns / kLanes * kLanes;
    apply_whole(tile, stride, row, rows, column, whole);
    if (whole < columns) apply_rest(tile + whole, stride, row, rows, column + whole, columns - whole);
  }

 private:
  // Nearly all calls; the body is part of this loop, its count a constant.
  __attribute__((flatten)) void apply_whole(const float* tile, std::int64_t stride, std::int64_t row,
                                            int rows, std::int64_t column, std::int64_t columns) const {
    const Body body = body_;
    for (int r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < columns; c += kLanes) {
        body(row + r, column + c, load(tile + r * stride + c), kLanes);
      }
    }
  }
  __attribute__((noinline)) void apply_rest(const float* tile, std::int64_t stride, std::int64_t row,
                                            int rows, std::int64_t column, std::int64_t columns) const {
    for (int r = 0; r < rows; ++r) body_(row + r, column, load(tile + r * stride), columns);
  }

  const Body& body_;
};

struct Block {
  std::int64_t row_begin = 0, row_end = 0, column_begin = 0, column_end = 0;
};

// Products with a weight (or the gradient of one) of at most this many elements sum in float64: models that
// are narrow enough for it amplify the rounding of float32 chains, and are too small for it to cost anything.
constexpr std::int64_t kSmallWeight = 2048;

// One block of C on this thread. `precise` asks for float64 sums; it has no effect on products of bfloat16
// pairs.
template <class Format>
void multiply_block(const LeftOperand<Format>& a, const RightOperand<Format>& b, Epilogue& epilogue,
                    const Block& block, std::int64_t depth, Arena& arena, bool precise = false);

extern template void multiply_block(const LeftOperand<Float32Format>&, const RightOperand<Float32Format>&,
                                    Epilogue&, const Block&, std::int64_t, Arena&, bool);
#ifdef SOFTMOE_BFLOAT16_PRODUCTS
extern template void multiply_block(const LeftOperand<BFloat16Format>&, const RightOperand<BFloat16Format>&,
                                    Epilogue&, const Block&, std::int64_t, Arena&, bool);
#endif

// How the C of each of `items` products is cut into tasks.
struct BlockSizes {
  std::int64_t rows = 0, columns = 0;
};
BlockSizes choose_blocks(std::int64_t items, std::int64_t rows, std::int64_t columns, int threads);

// Calls body(item, block, worker) for all blocks of `items` products of rows x columns.
template <class Body>
void for_each_block(ThreadPool& pool, std::int64_t items, std::int64_t rows, std::int64_t columns,
                    const Body& body) {
  if (rows == 0 || columns == 0) return;
  const BlockSizes size = choose_blocks(items, rows, columns, pool.threads());
  const std::int64_t row_blocks = ceil_div(rows, size.rows), column_blocks = ceil_div(columns, size.columns);
  pool.parallel_for(
      items * column_blocks * row_blocks, 1, [&](std::int64_t begin, std::int64_t end, int worker) {
        for (std::int64_t task = begin; task < end; ++task) {
          const std::int64_t row = task % row_blocks * size.rows;
          const std::int64_t column = task / row_blocks % column_blocks * size.columns;
          body(task / row_blocks / column_blocks,
               Block{row, smaller(row + size.rows, rows), column, smaller(column + size.columns, columns)},
               worker);
        }
      });
}

}  // namespace softmoe::cpu::SOFTMOE_ISA
