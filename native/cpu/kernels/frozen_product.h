// Products with weights that were packed when they were frozen: C[i, j] = sum over k of A[i, k] B[k, j].
//
// B lies in panels of kTileColumns columns, each [depth][kTileColumns] elements in a row, so that a product
// reads memory in the order in which it lies there. Few rows are bound by those bytes: they take several
// panels at a time, which is as many streams, and ask for each line kBytesAhead early. All of the depth is
// summed in registers, one chain over ascending k for each element of C, so its bits are those of gemm.h for
// any number of rows.
#pragma once

#include "cpu/kernels/gemm_microkernel.h"

namespace softmoe::cpu::SOFTMOE_ISA {

// What a product multiplies: Element is of A, Stored the kPerElement steps of one column of B.
struct FrozenFloat32 {
  using Element = float;
  using Stored = float;
  using Sum = Vec;
  static constexpr int kPerElement = 1;
  static Vec load(const Stored* p) { return SOFTMOE_ISA::load(p); }
  static Vec multiply_add(Vec sum, Element a, Vec b) { return SOFTMOE_ISA::multiply_add(sum, a, b); }
};

struct FrozenBFloat16 {
  using Sum = Vec;
#ifdef SOFTMOE_BFLOAT16_PRODUCTS
  using Element = std::uint32_t;
  using Stored = std::uint32_t;
  static constexpr int kPerElement = 2;
  static UintVec load(const Stored* p) { return load_elements(p); }
  static Vec multiply_add(Vec sum, Element a, UintVec b) { return SOFTMOE_ISA::multiply_add(sum, a, b); }
#else
  using Element = float;
  using Stored = BFloat16;
  static constexpr int kPerElement = 1;
  static Vec load(const Stored* p) { return SOFTMOE_ISA::load(p); }
  static Vec multiply_add(Vec sum, Element a, Vec b) { return SOFTMOE_ISA::multiply_add(sum, a, b); }
#endif
};

// One matrix of frozen weights, of one expert.
template <class Format>
struct FrozenPanels {
  const typename Format::Stored* data;
  std::int64_t stride;  // elements from panel to panel
  const typename Format::Stored* panel(std::int64_t column) const {
    return data + column / kTileColumns * stride;
  }
};

// Rows of A in blocks of kDepthBlock elements of depth, [row][kPanelStride] in each.
template <class Format>
struct FrozenRows {
  const typename Format::Element* data;
  std::int64_t block_stride;
};

// How far ahead of its use memory is asked for: with 2 KiB, eight rows read it at 46 instead of 53 GB/s.
constexpr std::int64_t kBytesAhead = 8192;

// kRows rows of A times `elements` of kPanels panels of B from `b` on; what follows `next` is read after
// them. sums: [kRows][kPanels * kTileVectors].
template <class Format, int kRows, int kPanels>
void multiply_panels(std::int64_t elements, const typename Format::Element* a,
                     const typename Format::Stored* b, std::int64_t panel_stride,
                     const typename Format::Stored* next, typename Format::Sum* sums, bool accumulate) {
  using Stored = typename Format::Stored;
  constexpr int kVectors = kPanels * kTileVectors;
  constexpr std::int64_t kStepBytes = kTileColumns * sizeof(Stored);
  constexpr std::int64_t kStepsAhead = kBytesAhead / kPanels / kStepBytes;
  typename Format::Sum registers[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      registers[r][v] = accumulate ? sums[r * kVectors + v] : typename Format::Sum{};
    }
  }
  const auto step = [&](const Stored* ahead) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 4
      for (std::int64_t line = 0; line < kStepBytes; line += 64) {
        __builtin_prefetch(reinterpret_cast<const char*>(ahead + p * panel_stride) + line, 0, 3);
      }
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) {
        const auto right = Format::load(b + p * panel_stride + v * kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          auto& sum = registers[r][p * kTileVectors + v];
          sum = Format::multiply_add(sum, a[r * kPanelStride], right);
        }
      }
    }
    ++a;
    b += kTileColumns;
  };
  std::int64_t e = 0;
  for (; e + kStepsAhead < elements; ++e) step(b + kStepsAhead * kTileColumns);
  for (std::int64_t i = 0; e < elements; ++e, ++i) step(next + i * kTileColumns);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) sums[r * kVectors + v] = registers[r][v];
  }
}

template <class Format>
using PanelsFunction = void (*)(std::int64_t, const typename Format::Element*, const typename Format::Stored*,
                                std::int64_t, const typename Format::Stored*, typename Format::Sum*, bool);

// As many panels as the registers take: 4, 2 or 1.
constexpr int most_panels(int rows) { return 4 * rows <= kTileRows ? 4 : 2 * rows <= kTileRows ? 2 : 1; }

template <class Format, int kPanels, std::size_t... kRow>
inline PanelsFunction<Format> panels_function(int rows, std::index_sequence<kRow...>) {
  static constexpr PanelsFunction<Format> kFunctions[] = {
      &multiply_panels<Format, kRow + 1, smaller(kPanels, most_panels(kRow + 1))>...};
  return kFunctions[rows - 1];
}

// At most kTileRows rows times columns [begin, end) of B; `begin` is the first of a panel. Calls finish(row,
// column, sums, count) for every vector of C, rows counted from 0.
template <class Format, class Finish>
void multiply_frozen(int rows, std::int64_t elements, const FrozenRows<Format>& a,
                     const FrozenPanels<Format>& b, std::int64_t begin, std::int64_t end,
                     const Finish& finish) {
  constexpr auto kRows = std::make_index_sequence<kTileRows>();
  typename Format::Sum sums[kTileRows * kTileVectors];
  for (std::int64_t column = begin; column < end;) {
    int panels = most_panels(rows);
    while (panels > 1 && column + panels * kTileColumns > round_up(end, kTileColumns)) panels /= 2;
    const auto function = panels == 4   ? panels_function<Format, 4>(rows, kRows)
                          : panels == 2 ? panels_function<Format, 2>(rows, kRows)
                                        : panels_function<Format, 1>(rows, kRows);
    const auto* panel = b.panel(column);
    std::int64_t e = 0;
    do {
      const std::int64_t here = smaller<std::int64_t>(elements - e, kDepthBlock);
      const auto* next = e + here < elements ? panel + (e + here) * kTileColumns : panel + panels * b.stride;
      function(here, a.data + e / kDepthBlock * a.block_stride, panel + e * kTileColumns, b.stride, next,
               sums, e > 0);
      e += here;
    } while (e < elements);
    const int vectors = panels * kTileVectors;
    for (int r = 0; r < rows; ++r) {
      for (int v = 0; v < vectors && column + v * kLanes < end; ++v) {
        finish(r, column + v * kLanes, sums[r * vectors + v],
               smaller<std::int64_t>(end - column - v * kLanes, kLanes));
      }
    }
    column += panels * kTileColumns;
  }
}

}  // namespace softmoe::cpu::SOFTMOE_ISA
