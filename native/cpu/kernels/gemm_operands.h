// Operands of the matrix product. A source is a matrix whose elements are contiguous along one axis: line(i)
// gives the i-th row along that axis, which loads vectors of float32. Four packings turn sources into
// operands.
#pragma once

#include "cpu/kernels/gemm.h"

namespace softmoe::cpu::SOFTMOE_ISA {

// --- sources
// -------------------------------------------------------------------------------------------------

// A line in memory. Lines made on the fly have the same load functions and kStored = false.
template <class T>
struct StoredLine {
  static constexpr bool kStored = true;
  using Type = T;
  const T* data;
  Vec load(std::int64_t i) const { return SOFTMOE_ISA::load(data + i); }
  Vec load_partial(std::int64_t i, std::int64_t count) const {
    return SOFTMOE_ISA::load_partial(data + i, count);
  }
};

// Line i begins at data + i * stride.
template <class T>
struct Dense {
  const T* data;
  std::int64_t stride;
  StoredLine<T> line(std::int64_t i) const { return {data + i * stride}; }
};

// Line i is line index[i] of a dense matrix; line i itself where `index` is null.
template <class T>
struct Gathered {
  const T* data;
  std::int64_t stride;
  const std::int32_t* index;
  StoredLine<T> line(std::int64_t i) const { return {data + (index ? index[i] : i) * stride}; }
};

// Adds the cache lines of elements [i, i + count) of a line in memory.
template <class Line>
inline void add_line(LinesAhead& lines, const Line& line, std::int64_t i, std::int64_t count) {
  if constexpr (Line::kStored) {
    const auto first = reinterpret_cast<std::uintptr_t>(line.data + i) / 64;
    const auto end = (reinterpret_cast<std::uintptr_t>(line.data + i + count) + 63) / 64;
    lines.add(reinterpret_cast<const char*>(first * 64), static_cast<std::int64_t>(end - first));
  }
}

template <class Line>
inline void prefetch_line(const Line& line, std::int64_t i, std::int64_t count) {
  if constexpr (Line::kStored) {
    const char* end = reinterpret_cast<const char*>(line.data + i + count);
    for (const char* p = reinterpret_cast<const char*>(line.data + i); p < end; p += 64)
      __builtin_prefetch(p, 0, 2);
  }
}

template <class Line>
inline Vec load_line(const Line& line, std::int64_t i, std::int64_t count) {
  return count >= kLanes ? line.load(i) : line.load_partial(i, count);
}

// --- vectors of elements of a format
// ---------------------------------------------------------------------------

#ifdef SOFTMOE_BFLOAT16_PRODUCTS
inline UintVec low_halves(Vec v) { return __builtin_convertvector(narrow(v), UintVec); }

template <class Line>
inline UintVec load_halves(const Line& line, std::int64_t i, std::int64_t count) {
  if constexpr (Line::kStored) {
    if constexpr (sizeof(typename Line::Type) == 2) {
      if (count >= kLanes) {
        return __builtin_convertvector(*reinterpret_cast<const LooseHalfVec*>(line.data + i), UintVec);
      }
    }
  }
  return low_halves(load_line(line, i, count));
}

// 2 * kLanes consecutive elements of a line as bfloat16, zeros beyond `count`.
template <class Line>
inline UintVec load_pairs(const Line& line, std::int64_t i, std::int64_t count) {
  if constexpr (Line::kStored) {
    if constexpr (sizeof(typename Line::Type) == 2) {
      if (count >= 2 * kLanes) return *reinterpret_cast<const LooseUintVec*>(line.data + i);
    }
  }
  alignas(64) BFloat16 halves[2 * kLanes] = {};
  store(halves, load_line(line, i, count));
  if (count > kLanes) store(halves + kLanes, load_line(line, i + kLanes, count - kLanes));
  return *reinterpret_cast<const LooseUintVec*>(halves);
}
#endif

// Elements k … of one line along k: kLanes elements of the format, zeros beyond `count` steps.
template <class Format, class Line>
inline UintVec load_along_depth(const Line& line, std::int64_t k, std::int64_t count) {
  if constexpr (Format::kPerElement == 1) {
    return bits_of(load_line(line, k, count));
  } else {
    return load_pairs(line, k, count);
  }
}

// kLanes neighbours at step k (and k + 1): from the lines of those steps.
template <class Format, class Source>
inline UintVec load_across_depth(const Source& source, std::int64_t k, bool pair_is_whole, std::int64_t i,
                                 std::int64_t count) {
  if constexpr (Format::kPerElement == 1) {
    return bits_of(load_line(source.line(k), i, count));
  } else {
    const UintVec low = load_halves(source.line(k), i, count);
    return pair_is_whole ? low | (load_halves(source.line(k + 1), i, count) << 16) : low;
  }
}

template <class Element>
inline void store_elements(Element* p, UintVec v) {
  *reinterpret_cast<LooseUintVec*>(p) = v;
}

template <class Format>
constexpr int elements_of_depth(std::int64_t depth) {
  return static_cast<int>(round_up(ceil_div(depth, Format::kPerElement), Format::kDepthUnit));
}

// Whether lines lie in memory at a constant distance, in the type that the format multiplies.
template <class Format, class Source>
inline bool dense_in_memory(const Source&, const char**, std::int64_t*) {
  return false;
}
template <class Format, class T>
inline bool dense_in_memory(const Dense<T>& source, const char** data, std::int64_t* stride) {
  *data = reinterpret_cast<const char*>(source.data);
  *stride = source.stride * static_cast<std::int64_t>(sizeof(T));
  return static_cast<int>(sizeof(T)) * Format::kPerElement == 4;
}
template <class Format, class T>
inline bool dense_in_memory(const Gathered<T>& source, const char** data, std::int64_t* stride) {
  return source.index == nullptr &&
         dense_in_memory<Format>(Dense<T>{source.data, source.stride}, data, stride);
}

// --- operands
// ------------------------------------------------------------------------------------------------

// A whose rows are lines (contiguous along k).
template <class Format, class Source>
class LeftRows final : public LeftOperand<Format> {
 public:
  using Element = typename Format::Element;
  explicit LeftRows(const Source& source) : source_(source) {}
  bool packs_columns() const override { return false; }
  void pack(Element* panel, std::int64_t row, int rows, std::int64_t k, int depth) const override {
    const int elements = elements_of_depth<Format>(depth);
    for (int r = 0; r < rows; ++r) {
      const auto line = source_.line(row + r);
      for (int e = 0; e < elements; e += kLanes) {
        const int step = e * Format::kPerElement;
        store_elements(panel + r * kPanelStride + e, load_along_depth<Format>(line, k + step, depth - step));
      }
    }
  }
  bool in_memory(const typename Format::Loose** data, std::int64_t* stride) const override {
    const char* bytes = nullptr;
    if (!dense_in_memory<Format>(source_, &bytes, stride) || *stride % sizeof(Element) != 0) return false;
    *data = reinterpret_cast<const typename Format::Loose*>(bytes);
    *stride /= static_cast<std::int64_t>(sizeof(Element));
    return true;
  }
  void add_lines(LinesAhead& lines, std::int64_t row, int rows, std::int64_t k, int depth,
                 PartAhead part) const override {
    for (std::int64_t r = part.begin(rows); r < part.end(rows); ++r) {
      add_line(lines, source_.line(row + r), k, depth);
    }
  }

 private:
  Source source_;
};

// A whose columns are lines (contiguous along the rows): the transpose of a stored matrix.
template <class Format, class Source>
class LeftColumns final : public LeftOperand<Format> {
 public:
  using Element = typename Format::Element;
  // `rows`: of A, so that no line is read beyond its end.
  LeftColumns(const Source& source, std::int64_t rows) : source_(source), rows_(rows) {}
  bool packs_columns() const override { return Format::kDepthUnit == 1; }
  void pack(Element* panel, std::int64_t row, int rows, std::int64_t k, int depth) const override {
    const int elements = elements_of_depth<Format>(depth);
    if constexpr (Format::kDepthUnit == 1) {
      // The last vector of a step may reach into the next one, which is written after it.
      for (int e = 0; e < elements; ++e) {
        const int step = e * Format::kPerElement;
        for (int r = 0; r < rows; r += kLanes) {
          store_elements(
              panel + e * Format::kRows + r,
              load_across_depth<Format>(source_, k + step, step + 1 < depth, row + r, rows_ - row - r));
        }
      }
    } else {
      for (int e = 0; e < elements; e += kLanes) {
        for (int r = 0; r < rows; r += kLanes) {
          UintVec vectors[kLanes];
          for (int i = 0; i < kLanes; ++i) {
            const int step = (e + i) * Format::kPerElement;
            vectors[i] = step < depth ? load_across_depth<Format>(source_, k + step, step + 1 < depth,
                                                                  row + r, rows_ - row - r)
                                      : UintVec{};
          }
          transpose(vectors);
          for (int i = 0; i < kLanes; ++i) store_elements(panel + (r + i) * kPanelStride + e, vectors[i]);
        }
      }
    }
  }
  bool in_memory(const typename Format::Loose**, std::int64_t*) const override { return false; }
  void add_lines(LinesAhead& lines, std::int64_t row, int rows, std::int64_t k, int depth,
                 PartAhead part) const override {
    for (std::int64_t step = part.begin(depth); step < part.end(depth); ++step) {
      add_line(lines, source_.line(k + step), row, rows);
    }
  }

 private:
  Source source_;
  std::int64_t rows_;
};

// The rows that make one element of depth, all of them there; copy() packs kTileColumns whole columns.
template <class Format, class Line>
struct WholeRows {
  Line first, second;  // second: of a pair
  void copy(typename Format::Element* out, std::int64_t column) const {
    if constexpr (Format::kPerElement == 1) {
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) {
        store_elements(out + v * kLanes, bits_of(first.load(column + v * kLanes)));
      }
    } else {
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; v += 2) {
        constexpr auto kPairs = std::make_index_sequence<2 * kLanes>();
        const PairVec low = (PairVec)load_pairs(first, column + v * kLanes, 2 * kLanes);
        const PairVec high = (PairVec)load_pairs(second, column + v * kLanes, 2 * kLanes);
        store_elements(out + v * kLanes, interleave(low, high, 0, kPairs));
        store_elements(out + (v + 1) * kLanes, interleave(low, high, 1, kPairs));
      }
    }
  }
};
template <class Format, class Source>
inline auto whole_rows(const Source& source, std::int64_t k) {
  const auto first = source.line(k);
  return WholeRows<Format, std::decay_t<decltype(first)>>{
      first, Format::kPerElement == 1 ? first : source.line(k + 1)};
}

// B whose rows are lines (contiguous along the columns).
template <class Format, class Source>
class RightRows final : public RightOperand<Format> {
 public:
  using Element = typename Format::Element;
  static constexpr int kRowsAhead = 4;
  explicit RightRows(const Source& source) : source_(source) {}
  void pack(Element* panels, std::int64_t panel_size, std::int64_t column, std::int64_t columns,
            std::int64_t k, int depth, NextPiece next) const override {
    const int elements = elements_of_depth<Format>(depth);
    for (int e = 0; e < elements; ++e) {
      const int step = e * Format::kPerElement;
      // Rows are far apart: the caches' own prefetching starts anew in each.
      for (int i = 0; i < Format::kPerElement && step + i < depth; ++i) {
        const int ahead = step + i + kRowsAhead;
        if (ahead < depth) {
          prefetch_line(source_.line(k + ahead), column, columns);
        } else if (next.column >= 0 && ahead < 2 * depth) {
          prefetch_line(source_.line(next.k + ahead - depth), next.column, columns);
        }
      }
      Element* out = panels + e * kTileColumns;
      std::int64_t c = 0;
      if (step + Format::kPerElement <= depth) {
        const auto rows = whole_rows<Format>(source_, k + step);
        for (; c + kTileColumns <= columns; c += kTileColumns, out += panel_size) {
          rows.copy(out, column + c);
        }
      }
      for (; c < columns; c += kTileColumns, out += panel_size) {
        for (int v = 0; v < kTileVectors; ++v) {
          const std::int64_t left = columns - c - v * kLanes;
          store_elements(out + v * kLanes, left > 0 && step < depth ? load_across_depth<Format>(
                                                                          source_, k + step, step + 1 < depth,
                                                                          column + c + v * kLanes, left)
                                                                    : UintVec{});
        }
      }
    }
  }

  void add_lines(LinesAhead& lines, std::int64_t column, std::int64_t columns, std::int64_t k, int depth,
                 PartAhead part) const override {
    for (std::int64_t step = part.begin(depth); step < part.end(depth); ++step) {
      add_line(lines, source_.line(k + step), column, columns);
    }
  }
  bool in_memory(const char** data, std::int64_t* stride) const override {
    return dense_in_memory<Format>(source_, data, stride);
  }

 private:
  Source source_;
};

// B whose columns are lines (contiguous along k): the transpose of a stored matrix.
template <class Format, class Source>
class RightColumns final : public RightOperand<Format> {
 public:
  using Element = typename Format::Element;
  explicit RightColumns(const Source& source) : source_(source) {}
  void pack(Element* panels, std::int64_t panel_size, std::int64_t column, std::int64_t columns,
            std::int64_t k, int depth, NextPiece next) const override {
    const int elements = elements_of_depth<Format>(depth);
    for (std::int64_t c = 0; c < columns; c += kTileColumns, panels += panel_size) {
      const NextPiece following =
          c + 2 * kTileColumns <= columns ? NextPiece{column + c + kTileColumns, k} : next;
      for (int v = 0; v < kTileVectors; ++v) {
        const std::int64_t first = column + c + v * kLanes;
        const std::int64_t lines = smaller<std::int64_t>(columns - c - v * kLanes, kLanes);
        for (int e = 0; e < elements; e += kLanes) {
          const int step = e * Format::kPerElement;
          // Many lines are read in turn: too many for the caches to see by themselves how each goes on.
          if (following.column >= 0) {
            for (std::int64_t i = 0; i < lines; ++i) {
              prefetch_line(source_.line(following.column + first - column - c + i), following.k + step, 1);
            }
          }
          Element* out = panels + e * kTileColumns + v * kLanes;
          if (lines == kLanes && depth - step >= kLanes * Format::kPerElement) {
            UintVec vectors[kLanes];
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) {
              vectors[i] = load_along_depth<Format>(source_.line(first + i), k + step, 2 * kLanes);
            }
            transpose(vectors);
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) store_elements(out + i * kTileColumns, vectors[i]);
          } else {
            UintVec vectors[kLanes];
            for (int i = 0; i < kLanes; ++i) {
              vectors[i] = i < lines
                               ? load_along_depth<Format>(source_.line(first + i), k + step, depth - step)
                               : UintVec{};
            }
            transpose(vectors);
            for (int i = 0; i < smaller(kLanes, elements - e); ++i) {
              store_elements(out + i * kTileColumns, vectors[i]);
            }
          }
        }
      }
    }
  }

  void add_lines(LinesAhead& lines, std::int64_t column, std::int64_t columns, std::int64_t k, int depth,
                 PartAhead part) const override {
    for (std::int64_t c = part.begin(columns); c < part.end(columns); ++c) {
      add_line(lines, source_.line(column + c), k, depth);
    }
  }
  bool in_memory(const char**, std::int64_t*) const override { return false; }

 private:
  Source source_;
};

}  // namespace softmoe::cpu::SOFTMOE_ISA
