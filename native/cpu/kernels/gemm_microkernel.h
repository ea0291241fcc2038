// One tile of the matrix product from packed panels, with all accumulators in registers.
#pragma once

#include "cpu/kernels/gemm.h"
#if defined(SOFTMOE_ISA_AMX)
#include "cpu/kernels/amx_tiles.h"
#endif

namespace softmoe::cpu::SOFTMOE_ISA {

inline Vec multiply_add(Vec sum, float a, Vec b) { return sum + a * b; }
inline Vec load_elements(const float* p) { return load(p); }

#ifdef SOFTMOE_BFLOAT16_PRODUCTS
inline UintVec load_elements(const std::uint32_t* p) { return *reinterpret_cast<const LooseUintVec*>(p); }
inline Vec multiply_add(Vec sum, std::uint32_t a, UintVec b) {
  return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(a - UintVec{}), (__m512bh)b);
}
#endif

template <class Format, int kTileHeight>
struct TileRegisters {
  using Element = typename Format::Element;
  Vec sums[kTileHeight][kTileVectors];

  TileRegisters(const float* tile, bool accumulate) {
#pragma GCC unroll 32
    for (int r = 0; r < kTileHeight; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) {
        sums[r][v] = accumulate ? load(tile + r * kTileColumns + v * kLanes) : Vec{};
      }
    }
  }
  // `left(r)`: the element of A in row r.
  template <class Left>
  void multiply(const Left& left, const Element* b) {
    decltype(load_elements(b)) right[kTileVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) right[v] = load_elements(b + v * kLanes);
#pragma GCC unroll 32
    for (int r = 0; r < kTileHeight; ++r) {
      const Element a = left(r);
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) sums[r][v] = multiply_add(sums[r][v], a, right[v]);
    }
  }
  void store_to(float* tile) const {
#pragma GCC unroll 32
    for (int r = 0; r < kTileHeight; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) store(tile + r * kTileColumns + v * kLanes, sums[r][v]);
    }
  }
};

// The first steps also ask for one of `lines` each.
template <class Format, int kTileHeight, bool kColumnPanel>
void multiply_rows(int elements, const typename Format::Element* a, const typename Format::Element* b,
                   float* tile, bool accumulate, const LinesAhead& lines) {
  constexpr int kStep = kColumnPanel ? Format::kRows : 1;
  TileRegisters<Format, kTileHeight> registers(tile, accumulate);
  const auto left = [&](int r) { return kColumnPanel ? a[r] : a[r * kPanelStride]; };
  int e = 0;
  for (; e < smaller(elements, lines.count()); ++e, a += kStep, b += kTileColumns) {
    __builtin_prefetch(lines.begin()[e], 0, 2);
    registers.multiply(left, b);
  }
  for (; e < elements; ++e, a += kStep, b += kTileColumns) registers.multiply(left, b);
  registers.store_to(tile);
}

// A tile of all rows straight from A in memory, `stride` elements from row to row.
template <class Format>
void multiply_whole_rows(int elements, const typename Format::Loose* a, std::int64_t stride,
                         const typename Format::Element* b, float* tile, bool accumulate,
                         const LinesAhead& lines) {
  // Three rows a pointer: as many as x86 can address by it and the stride.
  constexpr int kPointers = (kTileRows + 2) / 3;
  const typename Format::Loose* rows[kPointers];
#pragma GCC unroll 8
  for (int p = 0; p < kPointers; ++p) rows[p] = a + 3 * p * stride;
  TileRegisters<Format, kTileRows> registers(tile, accumulate);
  const auto multiply = [&] {
    registers.multiply([&](int r) { return rows[r / 3][r % 3 * stride]; }, b);
#pragma GCC unroll 8
    for (int p = 0; p < kPointers; ++p) ++rows[p];
    b += kTileColumns;
  };
  int e = 0;
  for (; e < smaller(elements, lines.count()); ++e) {
    __builtin_prefetch(lines.begin()[e], 0, 2);
    multiply();
  }
  for (; e < elements; ++e) multiply();
  registers.store_to(tile);
}

// The same tile with float64 sums: exact but for one rounding, at a fraction of the speed.
template <bool kColumnPanel>
void multiply_rows_precisely(int rows, int elements, const float* a, const float* b, float* tile,
                             bool accumulate) {
  for (int r = 0; r < rows; ++r) {
    double sums[kTileColumns];
    for (int c = 0; c < kTileColumns; ++c) sums[c] = accumulate ? tile[r * kTileColumns + c] : 0;
    for (int e = 0; e < elements; ++e) {
      const double left = kColumnPanel ? a[e * kTileRows + r] : a[r * kPanelStride + e];
      for (int c = 0; c < kTileColumns; ++c) sums[c] += left * static_cast<double>(b[e * kTileColumns + c]);
    }
    for (int c = 0; c < kTileColumns; ++c) tile[r * kTileColumns + c] = static_cast<float>(sums[c]);
  }
}

// kVectors of B at step `e` straight from memory, `stride` bytes from row to row.
template <int kVectors>
inline void load_rows(Vec (&right)[kVectors], const char* b, std::int64_t, bool) {
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) right[v] = load(reinterpret_cast<const float*>(b) + v * kLanes);
}
#ifdef SOFTMOE_BFLOAT16_PRODUCTS
// Rows k and k + 1 become pairs.
template <int kVectors>
inline void load_rows(UintVec (&right)[kVectors], const char* b, std::int64_t stride, bool pair_is_whole) {
  constexpr auto kPairs = std::make_index_sequence<2 * kLanes>();
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; v += 2) {
    const PairVec low = *reinterpret_cast<const LoosePairVec*>(b + v * 2 * kLanes);
    const PairVec high = pair_is_whole
                             ? (PairVec) * reinterpret_cast<const LoosePairVec*>(b + stride + v * 2 * kLanes)
                             : PairVec{};
    right[v] = interleave(low, high, 0, kPairs);
    right[v + 1] = interleave(low, high, 1, kPairs);
  }
}
#endif

// One row times B straight from memory, in the order in which B lies there: sums (+)= a * B over `steps` of
// depth and `columns`, a multiple of kTileColumns. Eight rows of B, read side by side from their beginnings
// on, are as many streams as the processor's own prefetching follows at full bandwidth. Where rows are short,
// the last of them ask for what follows in memory: as a rule the next of many small weights.
template <class Format>
inline void multiply_one_row(std::int64_t steps, const typename Format::Element* a, const char* b,
                             std::int64_t stride, std::int64_t columns, float* sums, bool accumulate) {
  constexpr int kAbreast = 8 / Format::kPerElement, kVectors = 2;
  constexpr int kColumnBytes = 4 / Format::kPerElement;
  constexpr std::int64_t kShortRow = 512;
  const std::int64_t elements = steps / Format::kPerElement, element_bytes = stride * Format::kPerElement;
  const auto add_elements = [&](std::int64_t e, int count, bool pair_is_whole, bool asks = false) {
    for (std::int64_t c = 0; c < columns; c += kVectors * kLanes) {
      Vec registers[kVectors];
      if (asks) {
        const char* following = b + (e + count) * element_bytes + c * kColumnBytes;
#pragma GCC unroll 8
        for (int i = 0; i < count * Format::kPerElement; ++i) {
#pragma GCC unroll 2
          for (int byte = 0; byte < kVectors * kLanes * kColumnBytes; byte += 64) {
            __builtin_prefetch(following + i * stride + byte, 0, 2);
          }
        }
      }
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        registers[v] = accumulate || e > 0 ? load(sums + c + v * kLanes) : Vec{};
      }
#pragma GCC unroll 8
      for (int i = 0; i < count; ++i) {
        decltype(load_elements(a)) right[kVectors];
        load_rows(right, b + (e + i) * element_bytes + c * kColumnBytes, stride, pair_is_whole);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) registers[v] = multiply_add(registers[v], a[e + i], right[v]);
      }
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) store(sums + c + v * kLanes, registers[v]);
    }
  };
  std::int64_t e = 0;
  for (; e + 2 * kAbreast <= elements; e += kAbreast) add_elements(e, kAbreast, true);
  for (; e + kAbreast <= elements; e += kAbreast) add_elements(e, kAbreast, true, columns <= kShortRow);
  for (; e < elements; ++e) add_elements(e, 1, true);
  if (steps % Format::kPerElement != 0) add_elements(e, 1, false);
}

// Rows of B that a multiplication from memory asks the caches for, those of one element in each step: `count`
// from `begin` on, then, unless that is null, from `next` on. Where a row of the tile is half of the 128
// bytes that memory hands over at once, it is one row of two tiles instead.
struct RowsAhead {
  const char* begin;
  std::int64_t count;
  const char* next;
};

// Few rows use each element of B so few times that packing it would cost more than reading it: B straight
// from memory, kVectors wide. tile (+)= A panel [row][kPanelStride] * B; `steps` of depth. Rows of B lie in
// different pages, where the caches' own prefetching ends: hence `ahead`.
template <class Format, int kTileHeight, int kVectors, bool kAsks>
void multiply_few_rows(std::int64_t steps, const typename Format::Element* a, const char* b,
                       std::int64_t stride, const RowsAhead& ahead, float* tile, std::int64_t tile_stride,
                       bool accumulate) {
  using Right = decltype(load_elements(a));
  constexpr int kLines = larger(kVectors * kLanes / 16, 1);
  constexpr int kRowLines =
      Format::kPerElement == 2 && kVectors == kTileVectors ? kLines : larger(kLines / Format::kPerElement, 1);
  Vec sums[kTileHeight][kVectors];
#pragma GCC unroll 32
  for (int r = 0; r < kTileHeight; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v)
      sums[r][v] = accumulate ? load(tile + r * tile_stride + v * kLanes) : Vec{};
  }
  const char* asked = ahead.begin;
  const auto ask = [&] {
#pragma GCC unroll 4
    for (int line = 0; line < kLines; ++line) {
      __builtin_prefetch(asked + line / kRowLines * stride + line % kRowLines * 64, 0, 2);
    }
    asked += stride * (kLines / kRowLines);
  };
  const auto multiply = [&](bool pair_is_whole) {
    Right right[kVectors];
    load_rows(right, b, stride, pair_is_whole);
#pragma GCC unroll 32
    for (int r = 0; r < kTileHeight; ++r) {
      const typename Format::Element left = a[r * kPanelStride];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[r][v] = multiply_add(sums[r][v], left, right[v]);
    }
    ++a;
    b += stride * Format::kPerElement;
  };
  const std::int64_t elements = steps / Format::kPerElement;
  std::int64_t e = 0;
  if constexpr (kAsks) {
    for (; e < smaller(ahead.count, elements); ++e) {
      ask();
      multiply(true);
    }
    asked = ahead.next;
    for (; asked && e < elements; ++e) {
      ask();
      multiply(true);
    }
  }
  for (; e < elements; ++e) multiply(true);
  if (steps % Format::kPerElement != 0) multiply(false);
#pragma GCC unroll 32
  for (int r = 0; r < kTileHeight; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) store(tile + r * tile_stride + v * kLanes, sums[r][v]);
  }
}

template <class Format>
using TileFunction = void (*)(int, const typename Format::Element*, const typename Format::Element*, float*,
                              bool, const LinesAhead&);

template <class Format, bool kColumnPanel>
struct TileFunctions {
  template <std::size_t... kRow>
  static TileFunction<Format> get(int rows, std::index_sequence<kRow...>) {
    static constexpr TileFunction<Format> kFunctions[] = {&multiply_rows<Format, kRow + 1, kColumnPanel>...};
    return kFunctions[rows - 1];
  }
};

// What must live while tiles are multiplied.
struct NoRegisters {};
#ifdef SOFTMOE_ISA_AMX
template <class Format>
using TileRegistersOf = std::conditional_t<Format::kPerElement == 2, TileScope, NoRegisters>;

// Two by two tiles of 16 x 16 sums; the second row of tiles is left out where there are no rows for it.
template <bool kBothHalves>
void multiply_tiles(int elements, const std::uint32_t* a, const std::uint32_t* b, float* tile,
                    bool accumulate, const LinesAhead& lines) {
  constexpr std::int64_t kSumStride = kTileColumns * 4, kLeftStride = kPanelStride * 4;
  constexpr int kLower = kTileHeightMax * kTileColumns;
  if (accumulate) {
    tile_load<0>(tile, kSumStride);
    tile_load<1>(tile + 16, kSumStride);
    if constexpr (kBothHalves) tile_load<2>(tile + kLower, kSumStride);
    if constexpr (kBothHalves) tile_load<3>(tile + kLower + 16, kSumStride);
  } else {
    tile_zero<0>();
    tile_zero<1>();
    if constexpr (kBothHalves) tile_zero<2>();
    if constexpr (kBothHalves) tile_zero<3>();
  }
  const int steps = elements / kTileHeightMax;
  int line = 0;
  for (int step = 0; step < steps; ++step) {
    for (; line < (step + 1) * lines.count() / steps; ++line) __builtin_prefetch(lines.begin()[line], 0, 2);
    tile_load<6>(b, kSumStride);
    tile_load<4>(a, kLeftStride);
    tile_multiply<0, 4, 6>();
    tile_load<7>(b + 16, kSumStride);
    tile_multiply<1, 4, 7>();
    if constexpr (kBothHalves) {
      tile_load<5>(a + kTileHeightMax * kPanelStride, kLeftStride);
      tile_multiply<2, 5, 6>();
      tile_multiply<3, 5, 7>();
    }
    a += kTileHeightMax;
    b += kTileHeightMax * kTileColumns;
  }
  tile_store<0>(tile, kSumStride);
  tile_store<1>(tile + 16, kSumStride);
  if constexpr (kBothHalves) tile_store<2>(tile + kLower, kSumStride);
  if constexpr (kBothHalves) tile_store<3>(tile + kLower + 16, kSumStride);
}
#else
template <class Format>
using TileRegistersOf = NoRegisters;
#endif

// tile (+)= A panel * B panel; rows of the tile beyond `rows` are undefined.
template <class Format>
inline void multiply_tile(int rows, bool column_panel, int elements, const typename Format::Element* a,
                          const typename Format::Element* b, float* tile, bool accumulate,
                          const LinesAhead& lines, [[maybe_unused]] bool precise) {
  if constexpr (std::is_same_v<Format, Float32Format>) {
    if (precise) {
      return column_panel ? multiply_rows_precisely<true>(rows, elements, a, b, tile, accumulate)
                          : multiply_rows_precisely<false>(rows, elements, a, b, tile, accumulate);
    }
  }
#ifdef SOFTMOE_ISA_AMX
  if constexpr (Format::kPerElement == 2) {
    return rows > kTileHeightMax ? multiply_tiles<true>(elements, a, b, tile, accumulate, lines)
                                 : multiply_tiles<false>(elements, a, b, tile, accumulate, lines);
  } else
#endif
  {
    constexpr auto kRows = std::make_index_sequence<Format::kRows>();
    const auto function = column_panel ? TileFunctions<Format, true>::get(rows, kRows)
                                       : TileFunctions<Format, false>::get(rows, kRows);
    function(elements, a, b, tile, accumulate, lines);
  }
}

// Tile multiplication (AMX) wants pairs packed, and sums them in an order of its own.
#ifdef SOFTMOE_ISA_AMX
template <class Format>
constexpr bool kReadsMemory = Format::kPerElement == 1;
#else
template <class Format>
constexpr bool kReadsMemory = true;
#endif

// Up to this many rows a tile of twice the width fits the registers.
constexpr int kFewRows = kTileRows / 2 - 1;

template <class Format>
using FewRowsFunction = void (*)(std::int64_t, const typename Format::Element*, const char*, std::int64_t,
                                 const RowsAhead&, float*, std::int64_t, bool);

template <class Format, int kVectors, bool kAsks>
struct FewRowsFunctions {
  template <std::size_t... kRow>
  static FewRowsFunction<Format> get(int rows, std::index_sequence<kRow...>) {
    static constexpr FewRowsFunction<Format> kFunctions[] = {
        &multiply_few_rows<Format, kRow + 1, kVectors, kAsks>...};
    return kFunctions[rows - 1];
  }
};

// Widths of a tile whose B is read from memory, in tiles of a packed panel.
constexpr int panels_in_memory(int rows) { return rows <= kFewRows ? 2 : 1; }

// tile (+)= A panel * B in memory, `panels` (at most panels_in_memory(rows)) tiles wide; tile rows are that
// wide too.
template <class Format>
inline void multiply_in_memory(int rows, std::int64_t steps, const typename Format::Element* a, const char* b,
                               std::int64_t stride, const RowsAhead& ahead, int panels, float* tile,
                               bool accumulate) {
  constexpr auto kAllRows = std::make_index_sequence<Format::kRows>();
  constexpr auto kFew = std::make_index_sequence<kFewRows>();
  FewRowsFunction<Format> function = nullptr;
  if (rows > kFewRows) {
    function = FewRowsFunctions<Format, kTileVectors, true>::get(rows, kAllRows);
  } else if (panels == 1) {
    function = FewRowsFunctions<Format, kTileVectors, false>::get(rows, kFew);
  } else {
    function = FewRowsFunctions<Format, 2 * kTileVectors, true>::get(rows, kFew);
  }
  function(steps, a, b, stride, ahead, tile, panels * kTileColumns, accumulate);
}

}  // namespace softmoe::cpu::SOFTMOE_ISA
