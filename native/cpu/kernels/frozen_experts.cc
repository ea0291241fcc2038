// The batched expert MLP with weights that were packed once: y = activation(x w1 + b1) w2 + b2 for the rows
// of each expert. Each byte of the weights is read from memory once, in sequence.
//
// Training does not keep packed weights: a step uses each matrix once forward and once, transposed, backward.
// For 128 experts of 384 x 1536 with 8 rows each, packing them anew takes 50 ms and saves 3 of 15 in the
// forward pass.
#include <type_traits>

#include "cpu/kernels/cpu_kernels.h"
#include "cpu/kernels/isa.h"
// The order matters: what follows is code for the instruction set.
#include "cpu/kernels/expert_blocks.h"
#include "cpu/kernels/frozen_product.h"
#include "cpu/kernels/gemm_operands.h"
#include "cpu/kernels/int8_product.h"
#include "cpu/kernels/loops.h"
#ifdef SOFTMOE_ISA_AMX
#include "cpu/kernels/int8_tiles.h"
#endif
#include "cpu/kernels/vector_math.h"
#include "cpu/kernels/with_types.h"

namespace softmoe::cpu::SOFTMOE_ISA {
namespace {

static_assert(FrozenLayout::kColumns % kTileColumns == 0, "panels fill the padded columns");

// One of the two matrices of all experts, with what belongs to it.
struct FrozenMatrix {
  char* weights;
  std::int64_t weights_of_expert, panel_bytes, depth, columns;
  float *biases, *scales;  // scales and sums: of int8
  std::int32_t* sums;

  FrozenMatrix(const Buffer& frozen, const FrozenLayout::Matrix& layout, std::int64_t depth,
               std::int64_t columns)
      : weights(frozen.as<char>() + layout.weights),
        weights_of_expert(layout.weights_of_expert),
        panel_bytes(columns == 0 ? 0
                                 : layout.weights_of_expert / round_up(columns, FrozenLayout::kColumns) *
                                       kTileColumns),
        depth(depth),
        columns(columns),
        biases(reinterpret_cast<float*>(frozen.as<char>() + layout.biases)),
        scales(reinterpret_cast<float*>(frozen.as<char>() + layout.scales)),
        sums(reinterpret_cast<std::int32_t*>(frozen.as<char>() + layout.sums)) {}

  char* panel(std::int64_t expert, std::int64_t column) const {
    return weights + expert * weights_of_expert + column / kTileColumns * panel_bytes;
  }
  template <class Format>
  FrozenPanels<Format> panels(std::int64_t expert) const {
    using Stored = typename Format::Stored;
    return {reinterpret_cast<const Stored*>(weights + expert * weights_of_expert),
            panel_bytes / static_cast<std::int64_t>(sizeof(Stored))};
  }
};

// --- packing
// --------------------------------------------------------------------------------------------------

// pack_panel(format, matrix, expert, column, weights): the panel that begins with `column`; weights [depth,
// columns].
template <class Format>
typename Format::Stored* panel_of(const FrozenMatrix& matrix, std::int64_t expert, std::int64_t column) {
  return reinterpret_cast<typename Format::Stored*>(matrix.panel(expert, column));
}

void pack_panel(FrozenFloat32, const FrozenMatrix& matrix, std::int64_t expert, std::int64_t column,
                const float* weights) {
  const RightRows<Float32Format, Dense<float>> source({weights, matrix.columns});
  source.pack(panel_of<FrozenFloat32>(matrix, expert, column), 0, column,
              smaller<std::int64_t>(matrix.columns - column, kTileColumns), 0, static_cast<int>(matrix.depth),
              NextPiece());
}

#ifdef SOFTMOE_BFLOAT16_PRODUCTS
void pack_panel(FrozenBFloat16, const FrozenMatrix& matrix, std::int64_t expert, std::int64_t column,
                const float* weights) {
  const RightRows<BFloat16Format, Dense<float>> source({weights, matrix.columns});
  source.pack(panel_of<FrozenBFloat16>(matrix, expert, column), 0, column,
              smaller<std::int64_t>(matrix.columns - column, kTileColumns), 0, static_cast<int>(matrix.depth),
              NextPiece());
}
#else
void pack_panel(FrozenBFloat16, const FrozenMatrix& matrix, std::int64_t expert, std::int64_t column,
                const float* weights) {
  BFloat16* panel = panel_of<FrozenBFloat16>(matrix, expert, column);
  for (std::int64_t k = 0; k < matrix.depth; ++k) {
    const float* row = weights + k * matrix.columns;
    for (int v = 0; v < kTileVectors; ++v) {
      const std::int64_t at = column + v * kLanes, left = matrix.columns - at;
      store(panel + k * kTileColumns + v * kLanes, left > 0 ? load_some(row + at, left) : Vec{});
    }
  }
}
#endif

void pack_panel(FrozenInt8, const FrozenMatrix& matrix, std::int64_t expert, std::int64_t column,
                const float* weights) {
  pack_int8_panel(matrix.panel(expert, column), matrix.panel_bytes, weights, matrix.depth, matrix.columns,
                  column, matrix.scales + expert * matrix.columns, matrix.sums + expert * matrix.columns);
}

template <class Format>
void freeze(const FrozenMatrix& matrix, const Buffer& weights, const Buffer& biases, std::int64_t experts,
            ThreadPool& pool) {
  const std::int64_t panels = ceil_div(matrix.columns, kTileColumns);
  pool.parallel_for(experts * panels, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t expert = task / panels, column = task % panels * kTileColumns;
      pack_panel(Format(), matrix, expert, column,
                 weights.as<const float>() + expert * matrix.depth * matrix.columns);
    }
  });
  __builtin_memcpy(matrix.biases, biases.data,
                   static_cast<std::size_t>(experts * matrix.columns) * sizeof(float));
}

// --- products
// -------------------------------------------------------------------------------------------------

// Lines rounded to bfloat16 where they are multiplied as float32.
template <class Line>
struct RoundedLine {
  static constexpr bool kStored = false;
  Line line;
  Vec load(std::int64_t i) const { return widen(narrow(line.load(i))); }
  Vec load_partial(std::int64_t i, std::int64_t count) const {
    return widen(narrow(line.load_partial(i, count)));
  }
};
template <class Source>
struct Rounded {
  Source source;
  auto line(std::int64_t i) const {
    const auto line = source.line(i);
    return RoundedLine<std::decay_t<decltype(line)>>{line};
  }
};

// The panels as an operand of gemm.h.
template <class Frozen, class Format>
class RightPanels final : public RightOperand<Format> {
 public:
  using Element = typename Format::Element;
  explicit RightPanels(const FrozenPanels<Frozen>& panels) : panels_(panels) {}
  void pack(Element* out, std::int64_t panel_size, std::int64_t column, std::int64_t columns, std::int64_t k,
            int depth, NextPiece) const override {
    const std::int64_t count = std::int64_t{elements_of_depth<Format>(depth)} * kTileColumns;
    for (std::int64_t c = 0; c < columns; c += kTileColumns, out += panel_size) {
      const auto* from = panels_.panel(column + c) + k / Format::kPerElement * kTileColumns;
      for (std::int64_t i = 0; i < count; i += kLanes) {
        const auto vector = Frozen::load(from + i);
        __builtin_memcpy(out + i, &vector, sizeof vector);
      }
    }
  }
  void add_lines(LinesAhead& lines, std::int64_t column, std::int64_t columns, std::int64_t k, int depth,
                 PartAhead part) const override {
    const std::int64_t bytes = std::int64_t{elements_of_depth<Format>(depth)} * kTileColumns *
                               static_cast<std::int64_t>(sizeof(typename Frozen::Stored));
    const std::int64_t panels = ceil_div(columns, kTileColumns);
    for (std::int64_t panel = part.begin(panels); panel < part.end(panels); ++panel) {
      lines.add(panels_.panel(column + panel * kTileColumns) + k / Format::kPerElement * kTileColumns,
                bytes / 64);
    }
  }
  bool in_memory(const char**, std::int64_t*) const override { return false; }

 private:
  FrozenPanels<Frozen> panels_;
};

// At most kTileRows rows as frozen products take them.
template <class Frozen, class Format, class Source>
FrozenRows<Frozen> pack_rows(const Source& source, std::int64_t row, int rows, std::int64_t depth,
                             Arena& arena) {
  constexpr std::int64_t kStep = std::int64_t{kDepthBlock} * Format::kPerElement;
  const std::int64_t block_stride = rows * kPanelStride;
  auto* packed = arena.take<typename Format::Element>(ceil_div(depth, kStep) * block_stride + kLanes);
  for (int r = 0; r < rows; ++r) {
    const auto line = source.line(row + r);
    for (std::int64_t k = 0; k < depth; k += kLanes * Format::kPerElement) {
      store_elements(packed + k / kStep * block_stride + r * kPanelStride + k % kStep / Format::kPerElement,
                     load_along_depth<Format>(line, k, depth - k));
    }
  }
  return {packed, block_stride};
}

// Tiles of AMX sum in an order of their own, which must be that of any number of rows.
#ifdef SOFTMOE_ISA_AMX
template <class Frozen>
constexpr bool kStreams = std::is_same_v<Frozen, FrozenFloat32>;
#else
template <class>
constexpr bool kStreams = true;
#endif

// Up to this many rows the panels go from memory, and for later groups of rows from the caches, straight to
// registers; for more it is worth copying them block by block of depth.
constexpr std::int64_t kMostStreamed = 3 * kTileRows;

// Calls body(first row, height) for groups of at most `most` rows, of about equal height.
template <class Body>
void for_row_groups(const Block& block, int most, const Body& body) {
  const std::int64_t count = block.row_end - block.row_begin, groups = ceil_div(count, most);
  for (std::int64_t group = 0; group < groups; ++group) {
    const std::int64_t first = block.row_begin + group * count / groups;
    body(first, static_cast<int>(block.row_begin + (group + 1) * count / groups - first));
  }
}

// finish(expert, row, column, values, count) for every vector of the product of the experts' rows.
template <class Frozen, class T, class Source, class Finish>
void multiply_experts(const Source& source, const FrozenMatrix& matrix, const ExpertRows& rows,
                      const Finish& finish, ThreadPool& pool, Scratch& scratch) {
  using Format = FormatOf<T>;
  const std::int64_t depth = matrix.depth;
  const std::int64_t elements = ceil_div(depth, Format::kPerElement);
  const bool precise = depth * matrix.columns <= kSmallWeight;
  for_each_expert_block(
      pool, scratch.stream(), rows, matrix.columns, [&](std::int64_t expert, const Block& block, int worker) {
        const FrozenPanels<Frozen> panels = matrix.panels<Frozen>(expert);
        const std::int64_t count = block.row_end - block.row_begin;
        if constexpr (kStreams<Frozen>) {
          if (count <= kMostStreamed && !precise) {
            for_row_groups(block, kTileRows, [&](std::int64_t first, int height) {
              const Arena::Frame frame(scratch.worker(worker));
              const auto left =
                  pack_rows<Frozen, Format>(source, first, height, depth, scratch.worker(worker));
              multiply_frozen<Frozen>(height, elements, left, panels, block.column_begin, block.column_end,
                                      [&](int row, std::int64_t column, Vec v, std::int64_t lanes) {
                                        finish(expert, first + row, column, v, lanes);
                                      });
            });
            return;
          }
        }
        const auto finish_vector = [&](std::int64_t row, std::int64_t column, Vec v, std::int64_t lanes) {
          finish(expert, row, column, v, lanes);
        };
        VectorEpilogue epilogue(finish_vector);
        const LeftRows<Format, Source> left(source);
        const RightPanels<Frozen, Format> right(panels);
        multiply_block<Format>(left, right, epilogue, block, depth, scratch.worker(worker), precise);
      });
}

template <class T>
struct HiddenEpilogue {
  const FrozenMatrix& matrix;
  T* hidden;
  Activation activation;
  void operator()(std::int64_t expert, std::int64_t row, std::int64_t column, Vec v,
                  std::int64_t count) const {
    v += load_some(matrix.biases + expert * matrix.columns + column, count);
    store_some(hidden + row * matrix.columns + column, activate(v, activation), count);
  }
};

template <class Y>
struct OutputEpilogue {
  const FrozenMatrix& matrix;
  Y* y;
  void operator()(std::int64_t expert, std::int64_t row, std::int64_t column, Vec v,
                  std::int64_t count) const {
    v += load_some(matrix.biases + expert * matrix.columns + column, count);
    store_some(y + row * matrix.columns + column, v, count);
  }
};

// T: the type of operands; x and y may be of another.
template <class Frozen, class T>
void forward(const FrozenExpertsForward& args, ThreadPool& pool, Scratch& scratch) {
  const FrozenLayout layout(args.format, args.rows.num_experts, args.dim, args.hidden, args.out);
  const FrozenMatrix first(args.frozen, layout.first, args.dim, args.hidden);
  const FrozenMatrix second(args.frozen, layout.second, args.hidden, args.out);
  const Arena::Frame frame(scratch.stream());
  T* activated = scratch.stream().take<T>(first_row(args.rows, args.rows.num_experts) * args.hidden);
  const HiddenEpilogue<T> finish{first, activated, args.activation};
  with_type(args.x, [&](auto* type) {
    using X = std::remove_pointer_t<decltype(type)>;
    const Gathered<X> source{args.x.as<const X>(), args.dim, args.rows.gather};
    if constexpr (sizeof(T) < sizeof(X) && FormatOf<T>::kPerElement == 1) {
      multiply_experts<Frozen, T>(Rounded<Gathered<X>>{source}, first, args.rows, finish, pool, scratch);
    } else {
      multiply_experts<Frozen, T>(source, first, args.rows, finish, pool, scratch);
    }
  });
  with_type(args.y, [&](auto* type) {
    using Y = std::remove_pointer_t<decltype(type)>;
    multiply_experts<Frozen, T>(Dense<T>{activated, args.hidden}, second, args.rows,
                                OutputEpilogue<Y>{second, args.y.as<Y>()}, pool, scratch);
  });
}

// The rows of `source` as codes.
template <class Source>
CodedRows encode_rows(const Source& source, std::int64_t rows, std::int64_t depth, ThreadPool& pool,
                      Arena& arena) {
  const CodedRows coded(rows, depth, arena);
  for_rows(pool, rows, depth, [&](std::int64_t row, int) { coded.encode(row, source.line(row), depth); });
  return coded;
}

// finish(expert, row, column, values, count) for every vector of the product of the coded rows.
template <class Finish>
void multiply_experts(const CodedRows& left, const FrozenMatrix& matrix, const ExpertRows& rows,
                      const Finish& finish, ThreadPool& pool, Scratch& scratch) {
  const std::int64_t elements = ceil_div(matrix.depth, FrozenInt8::kPerElement);
  for_each_expert_block(
      pool, scratch.stream(), rows, matrix.columns, [&](std::int64_t expert, const Block& block, int) {
        const float* scales = matrix.scales + expert * matrix.columns;
        const std::int32_t* sums = matrix.sums + expert * matrix.columns;
        const FrozenPanels<FrozenInt8> panels = matrix.panels<FrozenInt8>(expert);
        const auto dequantise = [&](std::int64_t row, std::int64_t column, IntVec sum, std::int64_t lanes) {
          sum -= left.zeros[row] * load_some_integers(sums + column, lanes);
          const Vec scale = load_some(scales + column, lanes) * left.scales[row];
          finish(expert, row, column, __builtin_convertvector(sum, Vec) * scale, lanes);
        };
#ifdef SOFTMOE_ISA_AMX
        // Fewer rows are bound by the weights' bytes, which streams read best.
        if (block.row_end - block.row_begin > kTileRows) {
          for_row_groups(block, kInt8TileRows, [&](std::int64_t first, int height) {
            multiply_frozen_tiles(height, elements, left.rows_from(first), panels, block.column_begin,
                                  block.column_end,
                                  [&](int r, std::int64_t column, IntVec sum, std::int64_t lanes) {
                                    dequantise(first + r, column, sum, lanes);
                                  });
          });
          return;
        }
#endif
        for_row_groups(block, kTileRows, [&](std::int64_t first, int height) {
          multiply_frozen<FrozenInt8>(height, elements, left.rows_from(first), panels, block.column_begin,
                                      block.column_end,
                                      [&](int r, std::int64_t column, IntVec sum, std::int64_t lanes) {
                                        dequantise(first + r, column, sum, lanes);
                                      });
        });
      });
}

void forward_int8(const FrozenExpertsForward& args, ThreadPool& pool, Scratch& scratch) {
  const FrozenLayout layout(args.format, args.rows.num_experts, args.dim, args.hidden, args.out);
  const FrozenMatrix first(args.frozen, layout.first, args.dim, args.hidden);
  const FrozenMatrix second(args.frozen, layout.second, args.hidden, args.out);
  const std::int64_t hidden = args.hidden, total = first_row(args.rows, args.rows.num_experts);
  const Arena::Frame frame(scratch.stream());
  float* activated = scratch.stream().take<float>(total * hidden);
  with_type(args.x, [&](auto* type) {
    using X = std::remove_pointer_t<decltype(type)>;
    const Gathered<X> source{args.x.as<const X>(), args.dim, args.rows.gather};
    const CodedRows rows = encode_rows(source, total, args.dim, pool, scratch.stream());
    multiply_experts(rows, first, args.rows, HiddenEpilogue<float>{first, activated, args.activation}, pool,
                     scratch);
  });
  const CodedRows rows = encode_rows(Dense<float>{activated, hidden}, total, hidden, pool, scratch.stream());
  with_type(args.y, [&](auto* type) {
    using Y = std::remove_pointer_t<decltype(type)>;
    multiply_experts(rows, second, args.rows, OutputEpilogue<Y>{second, args.y.as<Y>()}, pool, scratch);
  });
}

}  // namespace

void CpuKernels::run(const FreezeExperts& args) {
  const FrozenLayout layout(args.format, args.num_experts, args.dim, args.hidden, args.out);
  const FrozenMatrix first(args.frozen, layout.first, args.dim, args.hidden);
  const FrozenMatrix second(args.frozen, layout.second, args.hidden, args.out);
  const auto freeze_both = [&](auto format) {
    freeze<decltype(format)>(first, args.w1, args.b1, args.num_experts, pool);
    freeze<decltype(format)>(second, args.w2, args.b2, args.num_experts, pool);
  };
  switch (args.format) {
    case WeightFormat::kFloat32:
      return freeze_both(FrozenFloat32());
    case WeightFormat::kBFloat16:
      return freeze_both(FrozenBFloat16());
    case WeightFormat::kInt8:
      return freeze_both(FrozenInt8());
  }
}

void CpuKernels::run(const FrozenExpertsForward& args) {
  switch (args.format) {
    case WeightFormat::kFloat32:
      return forward<FrozenFloat32, float>(args, pool, scratch);
    case WeightFormat::kBFloat16:
      return forward<FrozenBFloat16, BFloat16>(args, pool, scratch);
    case WeightFormat::kInt8:
      return forward_int8(args, pool, scratch);
  }
}

}  // namespace softmoe::cpu::SOFTMOE_ISA

#include "cpu/kernels/isa_end.h"
