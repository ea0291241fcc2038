// The loops of the matrix product: for each block of depth, B's block is packed once; then each panel of A,
// packed unless it can be read where it lies, is multiplied with all of it. Tiles wait in float32 scratch
// between blocks of depth. Few rows read B where it lies instead.
#include <type_traits>

#include "cpu/kernels/cpu_kernels.h"
#include "cpu/kernels/isa.h"
// The order matters: what follows is code for the instruction set.
#include "cpu/kernels/gemm.h"
#include "cpu/kernels/gemm_microkernel.h"

namespace softmoe::cpu::SOFTMOE_ISA {
namespace {

// Depth that is packed at a time: a piece of B (12 KiB with AVX-512) goes through the L1 cache.
constexpr std::int64_t kPieceElements = 96;
static_assert(kDepthBlock % kPieceElements == 0, "pieces end with the panels of A");

// The rows of a block of A in panels of equal height, packed for all of the depth.
template <class Format>
struct PackedRows {
  static constexpr std::int64_t kStep = std::int64_t{kDepthBlock} * Format::kPerElement;
  static constexpr int kSize = Format::kRows * kPanelStride + kLanes;  // of a block of depth of a panel
  typename Format::Element* blocks;
  std::int64_t rows, panels, depth_blocks;
  bool packs_columns;

  PackedRows(const LeftOperand<Format>& a, const Block& block, std::int64_t depth, Arena& arena)
      : rows(block.row_end - block.row_begin),
        panels(ceil_div(rows, Format::kRows)),
        depth_blocks(larger<std::int64_t>(ceil_div(depth, kStep), 1)),
        packs_columns(a.packs_columns()) {
    blocks = arena.take<typename Format::Element>(panels * depth_blocks * kSize);
    for (std::int64_t panel = 0; panel < panels; ++panel) {
      for (std::int64_t k = 0; k < depth; k += kStep) {
        a.pack(blocks + (panel * depth_blocks + k / kStep) * kSize, block.row_begin + first(panel),
               height(panel), k, static_cast<int>(smaller(depth - k, kStep)));
      }
    }
  }
  std::int64_t first(std::int64_t panel) const { return panel * rows / panels; }
  int height(std::int64_t panel) const { return static_cast<int>(first(panel + 1) - first(panel)); }
  const typename Format::Element* at(std::int64_t panel, std::int64_t k) const {
    const std::int64_t element = k % kStep / Format::kPerElement;
    return blocks + (panel * depth_blocks + k / kStep) * kSize +
           (packs_columns ? element * Format::kRows : element);
  }
};

// Elements of depth by which one panel asks for B ahead of its own reading.
constexpr std::int64_t kElementsAhead = 64;

// Columns [begin, end), whole tiles, from B in memory. Several panels of rows follow each other over each
// block of depth of a tile: the first reads memory, and together they ask for the next block. Tiles whose
// rows are half of what memory hands over at once go in twos, which follow each other in the same way.
template <class Format>
void multiply_memory(const PackedRows<Format>& left, const char* data, std::int64_t stride,
                     Epilogue& epilogue, std::int64_t row, std::int64_t begin, std::int64_t end,
                     std::int64_t depth, Arena& arena) {
  constexpr std::int64_t kStep = PackedRows<Format>::kStep, kColumnBytes = 4 / Format::kPerElement;
  const Arena::Frame frame(arena);
  if (left.rows == 1) {
    float* sums = arena.take<float>(end - begin);
    for (std::int64_t k = 0; k < depth; k += kStep) {
      multiply_one_row<Format>(smaller(depth - k, kStep), left.at(0, k),
                               data + k * stride + begin * kColumnBytes, stride, end - begin, sums, k > 0);
    }
    return epilogue.apply(sums, end - begin, row, 1, begin, end - begin);
  }
  constexpr std::int64_t kTile = 2 * Format::kRows * kTileColumns;
  float* tiles = arena.take<float>(2 * left.panels * kTile);
  // Behind whole rows lies, as a rule, the next of many weights.
  const bool whole_rows = (end - begin) * kColumnBytes == stride;
  for (std::int64_t column = begin; column < end;) {
    const bool two = end - column >= 2 * kTileColumns;
    const int panels = two ? panels_in_memory(left.height(0)) : 1;
    const bool halves = Format::kPerElement == 2 && panels == 1;
    const std::int64_t abreast = halves && two ? 2 : 1, parts = abreast * left.panels;
    const std::int64_t columns = panels * kTileColumns;
    const std::int64_t block =
        abreast == 2 && left.panels == 1 ? kElementsAhead * Format::kPerElement : kStep;
    const char* from = data + column * kColumnBytes;
    for (std::int64_t k = 0; k < depth; k += block) {
      const std::int64_t steps = smaller(depth - k, block), elements = steps / Format::kPerElement;
      const char* b = from + k * stride;
      const char* next = b + steps * stride;
      if (k + steps == depth && !(whole_rows && column + abreast * columns == end)) {
        next = from + abreast * columns * kColumnBytes;
      }
      const std::int64_t asks = halves && !two ? 0 : elements * abreast, share = ceil_div(asks, parts);
      const std::int64_t ask_bytes = halves ? stride : stride * Format::kPerElement;
      for (std::int64_t part = 0; part < parts; ++part) {
        const RowsAhead ahead =
            parts == 1 && asks > 0
                ? RowsAhead{b + kElementsAhead * ask_bytes, asks - kElementsAhead, next}
                : RowsAhead{next + part * share * ask_bytes, smaller(share, asks - part * share), nullptr};
        const std::int64_t panel = part % left.panels, tile = part / left.panels;
        multiply_in_memory<Format>(left.height(panel), steps, left.at(panel, k),
                                   b + tile * columns * kColumnBytes, stride, ahead, panels,
                                   tiles + part * kTile, k > 0);
      }
    }
    for (std::int64_t part = 0; part < parts; ++part) {
      const std::int64_t panel = part % left.panels, tile = part / left.panels;
      epilogue.apply(tiles + part * kTile, columns, row + left.first(panel), left.height(panel),
                     column + tile * columns, columns);
    }
    column += abreast * columns;
  }
}

// Where A lies in memory as the microkernel reads whole panels of it; elsewhere `data` is null.
template <class Format>
struct RowsInMemory {
  const typename Format::Loose* data = nullptr;
  std::int64_t stride = 0;  // elements from row to row

  RowsInMemory(const LeftOperand<Format>& a, std::int64_t depth, bool precise) {
    // Rows at this distance would fall in the same sets of the L1 cache.
    constexpr std::int64_t kAlias = 4096 / sizeof(typename Format::Element);
    if (Format::kRows != kTileRows || precise || depth % Format::kPerElement != 0) return;
    if (!a.in_memory(&data, &stride) || stride % kAlias == 0) data = nullptr;
  }
  const typename Format::Loose* at(std::int64_t row, std::int64_t k) const {
    return data + row * stride + k / Format::kPerElement;
  }
};

// The bytes of A, packed for all of the depth, that leave room in the L2 cache; and the panels above which
// packing B costs less than reading it anew for each.
constexpr std::int64_t kMostLeftBytes = 384 << 10, kMostPanels = 8;

// Few rows: B goes straight from memory to registers where it lies there as the microkernel reads it. Returns
// the first column that is left to do.
template <class Format>
std::int64_t multiply_few_panels(const LeftOperand<Format>& a, const RightOperand<Format>& b,
                                 Epilogue& epilogue, const Block& block, std::int64_t depth, Arena& arena) {
  const std::int64_t whole = (block.column_end - block.column_begin) / kTileColumns * kTileColumns;
  const std::int64_t rows = block.row_end - block.row_begin, panels = ceil_div(rows, Format::kRows);
  const char* data = nullptr;
  std::int64_t stride = 0;
  const bool reads_memory =
      kReadsMemory<Format> && whole > 0 && depth > 0 && !a.packs_columns() &&
      (panels == 1 ||
       (panels <= kMostPanels &&
        panels * Format::kRows * ceil_div(depth, Format::kPerElement) * 4 <= kMostLeftBytes)) &&
      b.in_memory(&data, &stride);
  if (!reads_memory) return block.column_begin;
  const Arena::Frame frame(arena);
  multiply_memory(PackedRows<Format>(a, block, depth, arena), data, stride, epilogue, block.row_begin,
                  block.column_begin, block.column_begin + whole, depth, arena);
  return block.column_begin + whole;
}

// A block of at most one panel of rows: B is read once, so it goes through the L1 cache in small pieces.
template <class Format>
void multiply_panel(const LeftOperand<Format>& a, const RightOperand<Format>& b, Epilogue& epilogue,
                    const Block& block, std::int64_t depth, Arena& arena) {
  using Element = typename Format::Element;
  const TileRegistersOf<Format> tile_registers;
  static_cast<void>(tile_registers);
  const Arena::Frame frame(arena);
  const PackedRows<Format> left(a, block, depth, arena);
  const int rows = static_cast<int>(left.rows);
  std::int64_t column = block.column_begin;

  // In equal pieces that end where A's panels do.
  const std::int64_t first_elements =
      smaller<std::int64_t>(ceil_div(depth, Format::kPerElement), kDepthBlock);
  const std::int64_t pieces = larger<std::int64_t>(ceil_div(first_elements, kPieceElements), 1);
  const std::int64_t piece_steps = round_up(ceil_div(first_elements, pieces), 16) * Format::kPerElement;
  Element* right = arena.take<Element>(kPieceElements * kTileColumns);
  float* tile = arena.take<float>(Format::kRows * kTileColumns);
  for (; column < block.column_end; column += kTileColumns) {
    const std::int64_t columns = smaller<std::int64_t>(block.column_end - column, kTileColumns);
    std::int64_t k = 0;
    do {
      const int steps = static_cast<int>(smaller(depth - k, piece_steps));
      const int elements =
          static_cast<int>(round_up(ceil_div(steps, Format::kPerElement), Format::kDepthUnit));
      NextPiece next;
      if (k + 2 * steps <= depth) {
        next = {column, k + steps};
      } else if (k + steps == depth && block.column_end - column >= 2 * kTileColumns) {
        next = {column + kTileColumns, 0};
      }
      b.pack(right, kPieceElements * kTileColumns, column, columns, k, steps, next);
      multiply_tile<Format>(rows, left.packs_columns, elements, left.at(0, k), right, tile, k > 0,
                            LinesAhead(), false);
      k += piece_steps;
    } while (k < depth);
    epilogue.apply(tile, kTileColumns, block.row_begin, rows, column, columns);
  }
}

}  // namespace

template <class Format>
void multiply_block(const LeftOperand<Format>& a, const RightOperand<Format>& b, Epilogue& epilogue,
                    const Block& whole_block, std::int64_t depth, Arena& arena, bool precise) {
  Block block = whole_block;
  // Precise sums are rounded between blocks of depth, which must therefore be the same for any number of
  // rows.
  if (!precise) block.column_begin = multiply_few_panels(a, b, epilogue, block, depth, arena);
  if (block.column_begin == block.column_end) return;
  using Element = typename Format::Element;
  const TileRegistersOf<Format> tile_registers;
  static_cast<void>(tile_registers);
  constexpr std::int64_t kStep = std::int64_t{kDepthBlock} * Format::kPerElement;
  constexpr int kTile = Format::kRows * kTileColumns;
  const std::int64_t columns = block.column_end - block.column_begin;
  const std::int64_t column_panels = ceil_div(columns, kTileColumns);
  const std::int64_t row_panels = ceil_div(block.row_end - block.row_begin, Format::kRows);
  const bool one_pass = depth <= kStep;
  if (row_panels == 1 && !precise) return multiply_panel(a, b, epilogue, block, depth, arena);
  const bool packs_columns = a.packs_columns();

  const Arena::Frame frame(arena);
  // A packed vector may reach past the last element that counts.
  const std::int64_t longest =
      round_up(ceil_div(smaller(depth, kStep), Format::kPerElement), Format::kDepthUnit);
  const std::int64_t panel_size = longest * kTileColumns;
  Element* right = arena.take<Element>(column_panels * panel_size);
  Element* left = arena.take<Element>(Format::kRows * kPanelStride + kLanes);
  float* tiles = arena.take<float>(one_pass ? kTile : row_panels * column_panels * kTile);
  const float* tiles_end = tiles + row_panels * column_panels * kTile;

  const RowsInMemory<Format> in_memory(a, depth, precise);
  LinesAhead lines;
  std::int64_t k = 0;
  do {
    const int steps = static_cast<int>(smaller(depth - k, kStep));
    const int elements = static_cast<int>(round_up(ceil_div(steps, Format::kPerElement), Format::kDepthUnit));
    const bool last = k + steps == depth;
    const int next_steps = static_cast<int>(smaller(depth - k - steps, kStep));
    b.pack(right, panel_size, block.column_begin, columns, k, steps,
           k + 2 * steps <= depth ? NextPiece{block.column_begin, k + steps} : NextPiece{});
    float* tile = tiles;
    for (std::int64_t row = block.row_begin; row < block.row_end; row += Format::kRows) {
      const int rows = static_cast<int>(smaller<std::int64_t>(block.row_end - row, Format::kRows));
      const int next_rows =
          static_cast<int>(smaller<std::int64_t>(block.row_end - row - Format::kRows, Format::kRows));
      const bool in_place = in_memory.data != nullptr && rows == Format::kRows;
      if (!in_place) a.pack(left, row, rows, k, steps);
      const std::int64_t row_panel = (row - block.row_begin) / Format::kRows;
      for (std::int64_t panel = 0; panel < column_panels; ++panel) {
        lines.clear();
        if (!one_pass && tile + kTile != tiles_end) lines.add(tile + kTile, kTile * 4 / 64);
        if (next_rows > 0) {
          a.add_lines(lines, row + Format::kRows, next_rows, k, steps, {panel, column_panels});
        }
        if (!last) {
          b.add_lines(lines, block.column_begin, columns, k + steps, next_steps,
                      {row_panel * column_panels + panel, row_panels * column_panels});
        }
        const Element* const b_panel = right + panel * panel_size;
        if (in_place) {
          multiply_whole_rows<Format>(elements, in_memory.at(row, k), in_memory.stride, b_panel, tile, k > 0,
                                      lines);
        } else {
          multiply_tile<Format>(rows, packs_columns, elements, left, b_panel, tile, k > 0, lines, precise);
        }
        if (last) {
          const std::int64_t column = block.column_begin + panel * kTileColumns;
          epilogue.apply(tile, kTileColumns, row, rows, column,
                         smaller<std::int64_t>(block.column_end - column, kTileColumns));
        }
        if (!one_pass) tile += kTile;
      }
    }
    k += steps;
  } while (k < depth);
}

template void multiply_block(const LeftOperand<Float32Format>&, const RightOperand<Float32Format>&, Epilogue&,
                             const Block&, std::int64_t, Arena&, bool);
#ifdef SOFTMOE_BFLOAT16_PRODUCTS
template void multiply_block(const LeftOperand<BFloat16Format>&, const RightOperand<BFloat16Format>&,
                             Epilogue&, const Block&, std::int64_t, Arena&, bool);
#endif

// Blocks as large as the caches bear, but enough of them that every thread has several.
BlockSizes choose_blocks(std::int64_t items, std::int64_t rows, std::int64_t columns, int threads) {
  // A block of B (kDepthBlock x 384 x 4 bytes = 576 KiB) lies in the L2 cache. B is packed once for 1,008
  // rows.
  constexpr std::int64_t kMostRows = 72 * kTileRows;
  // Few rows read B from memory: the longer without a break, the better.
  const std::int64_t most_columns = rows <= kTileRows ? 2048 : 384;
  BlockSizes size{
      round_up(ceil_div(rows, ceil_div(rows, kMostRows)), kTileRows),
      smaller<std::int64_t>(round_up(columns, kTileColumns), most_columns / kTileColumns * kTileColumns)};
  const std::int64_t wanted = threads == 1 ? 1 : 4 * threads;
  for (;;) {
    const std::int64_t blocks = items * ceil_div(rows, size.rows) * ceil_div(columns, size.columns);
    if (blocks >= wanted) break;
    if (size.rows >= 2 * size.columns && size.rows > 4 * kTileRows) {
      size.rows = round_up(ceil_div(size.rows, 2), kTileRows);
    } else if (size.columns > 2 * kTileColumns) {
      size.columns = round_up(ceil_div(size.columns, 2), kTileColumns);
    } else if (size.rows > 2 * kTileRows) {
      size.rows = round_up(ceil_div(size.rows, 2), kTileRows);
    } else if (size.columns > kTileColumns) {
      size.columns = kTileColumns;
    } else {
      break;
    }
  }
  return size;
}

}  // namespace softmoe::cpu::SOFTMOE_ISA

#include "cpu/kernels/isa_end.h"
