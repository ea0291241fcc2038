// ldmatrix, stmatrix, mma.sync. In all these layouts lane l holds row l / 4 of an 8-row piece, and a register
// row of 32 lanes is therefore the 8 x 8 (16-bit) or 8 x 4 (32-bit) piece itself, row by row.
#include <cmath>
#include <cstring>

#include "access.h"
#include "decoder.h"
#include "definedness.h"
#include "matrix.h"

namespace ptxemu {

bool wholeWarp(Warp& warp, const Inst& inst, Mask mask) {
  if (mask == kAllLanes) return true;
  warp.report("inactive-lane", inst, firstLane(~mask), mask, "needs all 32 lanes of the warp");
  return false;
}

namespace {

// -- ldmatrix, stmatrix: up to four 8 x 8 matrices of 16-bit elements
// -----------------------------------------------

Mask addressLanes(int matrices) { return matrices == 4 ? kAllLanes : (1u << 8 * matrices) - 1; }

void executeLdmatrix(Warp& warp, const Inst& inst, Mask mask) {
  if (!wholeWarp(warp, inst, mask)) return;
  const int matrices = inst.destinations;
  const Mask lanes = addressLanes(matrices);
  Access access;
  if (resolve(warp, inst, lanes, 16, Use::load, access) != lanes) return;
  uint16_t values[4][8][8];
  uint32_t undefined[4][8] = {};
  uint32_t any = 0;
  for (int lane = 0; lane < 8 * matrices; lane++) {
    std::memcpy(values[lane / 8][lane % 8], access.pointer[lane], 16);
    if (!warp.definedness) continue;
    undefined[lane / 8][lane % 8] = undefinedBytesAt(warp, inst, access, lane, 0, 16);
    any |= undefined[lane / 8][lane % 8];
  }
  if (any) warp.tainted = true;
  for (int m = 0; m < matrices; m++) {
    uint16_t* d = warp.row<uint16_t>(inst.op[m]);
    for (int r = 0; r < 8; r++) {
      for (int c = 0; c < 8; c++) d[8 * r + c] = inst.flag ? values[m][c][r] : values[m][r][c];
    }
    if (!warp.tainted) continue;
    uint8_t* shadow = warp.shadow(inst.op[m]);
    for (int lane = 0; lane < kLanes; lane++) {
      uint8_t bits = 0;
      for (int half = 0; half < 2; half++) {
        const int r = lane / 4, c = lane % 4 * 2 + half;
        const uint32_t row = inst.flag ? undefined[m][c] : undefined[m][r];
        bits |= (row >> 2 * (inst.flag ? r : c) & 3) << 2 * half;
      }
      shadow[lane] = bits;
    }
  }
}

void executeStmatrix(Warp& warp, const Inst& inst, Mask mask) {
  if (!wholeWarp(warp, inst, mask)) return;
  const int matrices = inst.sources - 1;
  const Mask lanes = addressLanes(matrices);
  Access access;
  if (resolve(warp, inst, lanes, 16, Use::store, access) != lanes) return;
  for (int m = 0; m < matrices; m++) {
    const uint16_t* s = warp.row<uint16_t>(inst.op[1 + m]);
    const uint8_t* shadow = warp.shadow(inst.op[1 + m]);
    for (int r = 0; r < 8; r++) {
      uint16_t row[8];
      uint32_t undefined = 0;
      for (int c = 0; c < 8; c++) {
        const int element = inst.flag ? 8 * c + r : 8 * r + c;
        row[c] = s[element];
        if (warp.tainted) undefined |= (shadow[element / 2] >> 2 * (element % 2) & 3u) << 2 * c;
      }
      std::memcpy(access.pointer[8 * m + r], row, 16);
      if (warp.definedness) setUndefinedBytesAt(warp, access, 8 * m + r, 0, 16, undefined);
    }
  }
}

bool decodeMatrixMove(Decoder& decoder) {
  const bool isLoad = decoder.base() == "ldmatrix";
  decoder.take("sync");
  decoder.take("aligned");
  if (!decoder.take("m8n8")) decoder.unsupported();
  const std::string count = decoder.takeAny({"x1", "x2", "x4"});
  const bool transposed = decoder.take("trans");
  decoder.takeAny({"shared::cta", "shared"});
  if (!decoder.take("b16") || count.empty()) decoder.unsupported();
  decoder.allTaken();
  const Operand& data = decoder.operand(isLoad ? 0 : 1);
  const std::vector<Operand> items =
      data.kind == Operand::Kind::vector ? data.items : std::vector<Operand>{data};
  if (items.size() != static_cast<size_t>(count[1] - '0')) decoder.unsupported();
  if (isLoad) {
    for (const Operand& item : items) decoder.destination(item, OperandType::bits32);
  }
  decoder.address(decoder.operand(isLoad ? 1 : 0), Space::shared);
  if (!isLoad) {
    for (const Operand& item : items) decoder.source(item, OperandType::bits32);
  }
  Inst& inst = decoder.inst;
  inst.kind = Kind::convergeHere;
  inst.flag = transposed;
  inst.elementBytes = 16;
  inst.category = Category::memory;
  inst.propagate = propagateByItself;
  inst.execute = isLoad ? executeLdmatrix : executeStmatrix;
  return true;
}

// -- mma.sync
// -------------------------------------------------------------------------------------------------------

enum class Element : uint8_t { f16, bf16, tf32 };

__m256 widen(Element element, const uint16_t* eight) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(eight));
  if (element == Element::f16) return _mm256_cvtph_ps(bits);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

// tf32 operands: hardware ignores the low 13 bits.
float truncated(uint32_t bits) {
  bits &= 0xffffe000u;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

template <int K, Element E>
struct Operands {
  static constexpr int kRegistersA = E == Element::tf32 ? K / 2 : K / 4;
  static constexpr int kRegistersB = kRegistersA / 2;
  static constexpr int kPiece = E == Element::tf32 ? 4 : 8;  // columns of a piece

  static void loadA(Warp& warp, const uint32_t* ops, float (*a)[16]) {
    for (int q = 0; q < kRegistersA; q++) {
      const int row = q % 2 * 8, column = q / 2 * kPiece;
      for (int r = 0; r < 8; r++) {
        if constexpr (E == Element::tf32) {
          const uint32_t* bits = warp.row<uint32_t>(ops[q]) + 4 * r;
          for (int c = 0; c < 4; c++) a[row + r][column + c] = truncated(bits[c]);
        } else {
          _mm256_storeu_ps(&a[row + r][column], widen(E, warp.row<uint16_t>(ops[q]) + 8 * r));
        }
      }
    }
  }

  static void loadB(Warp& warp, const uint32_t* ops, float (*b)[8]) {
    for (int q = 0; q < kRegistersB; q++) {
      for (int n = 0; n < 8; n++) {
        alignas(32) float column[8];
        if constexpr (E == Element::tf32) {
          const uint32_t* bits = warp.row<uint32_t>(ops[q]) + 4 * n;
          for (int k = 0; k < 4; k++) column[k] = truncated(bits[k]);
        } else {
          _mm256_store_ps(column, widen(E, warp.row<uint16_t>(ops[q]) + 8 * n));
        }
        for (int k = 0; k < kPiece; k++) b[q * kPiece + k][n] = column[k];
      }
    }
  }
};

template <int K, Element E, bool kHalfAccumulator>
void executeMma(Warp& warp, const Inst& inst, Mask mask) {
  if (!wholeWarp(warp, inst, mask)) return;
  using Shape = Operands<K, E>;
  constexpr int kD = kHalfAccumulator ? 2 : 4;
  warp.block->counters.mma++;
  warp.block->counters.mmaFlops += 2 * 16 * 8 * K;
  alignas(32) float a[16][16], b[16][8], c[16][8];
  Shape::loadA(warp, inst.op + kD, a);
  Shape::loadB(warp, inst.op + kD + Shape::kRegistersA, b);
  const uint32_t* accumulators = inst.op + kD + Shape::kRegistersA + Shape::kRegistersB;
  for (int h = 0; h < 2; h++) {
    if constexpr (kHalfAccumulator) {
      for (int r = 0; r < 8; r++) {
        _mm256_store_ps(c[8 * h + r], widen(Element::f16, warp.row<uint16_t>(accumulators[h]) + 8 * r));
      }
    } else {
      const float *even = warp.row<float>(accumulators[2 * h]),
                  *odd = warp.row<float>(accumulators[2 * h + 1]);
      float* flat = c[8 * h];
      for (int lane = 0; lane < kLanes; lane++) flat[2 * lane] = even[lane], flat[2 * lane + 1] = odd[lane];
    }
  }
  for (int r = 0; r < 16; r += 4) {
    __m256 sum[4];
    for (int i = 0; i < 4; i++) sum[i] = _mm256_load_ps(c[r + i]);
    for (int k = 0; k < K; k++) {
      const __m256 row = _mm256_load_ps(b[k]);
      for (int i = 0; i < 4; i++) sum[i] = _mm256_fmadd_ps(_mm256_broadcast_ss(&a[r + i][k]), row, sum[i]);
    }
    for (int i = 0; i < 4; i++) _mm256_store_ps(c[r + i], sum[i]);
  }
  for (int h = 0; h < 2; h++) {
    if constexpr (kHalfAccumulator) {
      for (int r = 0; r < 8; r++) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(warp.row<uint16_t>(inst.op[h]) + 8 * r),
                         _mm256_cvtps_ph(_mm256_load_ps(c[8 * h + r]), 0));
      }
    } else {
      float *even = warp.row<float>(inst.op[2 * h]), *odd = warp.row<float>(inst.op[2 * h + 1]);
      const float* flat = c[8 * h];
      for (int lane = 0; lane < kLanes; lane++) even[lane] = flat[2 * lane], odd[lane] = flat[2 * lane + 1];
    }
  }
}

// A row of D is undefined where the row of A has an undefined element, a column where that of B has one. Code
// may load rows that no one filled and drop their results, so this must not spread further.
template <int K, Element E, bool kHalfAccumulator>
void propagateMma(Warp& warp, const Inst& inst, Mask) {
  using Shape = Operands<K, E>;
  constexpr int kD = kHalfAccumulator ? 2 : 4;
  uint32_t rows = 0, columns = 0;
  for (int q = 0; q < Shape::kRegistersA; q++) {
    const Mask lanes = undefinedLanes(warp, inst.op[kD + q]);
    forLanes(lanes, [&](int lane) { rows |= 1u << (q % 2 * 8 + lane / 4); });
  }
  for (int q = 0; q < Shape::kRegistersB; q++) {
    const Mask lanes = undefinedLanes(warp, inst.op[kD + Shape::kRegistersA + q]);
    forLanes(lanes, [&](int lane) { columns |= 1u << lane / 4; });
  }
  const uint32_t* accumulators = inst.op + kD + Shape::kRegistersA + Shape::kRegistersB;
  for (int i = 0; i < kD; i++) {
    const uint8_t* c = warp.shadow(accumulators[i]);
    uint8_t* d = warp.shadow(inst.op[i]);
    for (int lane = 0; lane < kLanes; lane++) {
      const int row = lane / 4 + (kHalfAccumulator ? i : i / 2) * 8,
                column = lane % 4 * 2 + (kHalfAccumulator ? 0 : i % 2);
      const bool spoiled = (rows >> row & 1) || (columns >> column & (kHalfAccumulator ? 3 : 1));
      d[lane] = spoiled ? 0xff : c[lane];
    }
  }
}

struct MmaForm {
  const char* spelling;
  int d, a, b;
  Execute execute;
  Propagate propagate;
};

template <int K, Element E, bool kHalf>
MmaForm mmaForm(const char* spelling) {
  using Shape = Operands<K, E>;
  return {spelling,           kHalf ? 2 : 4,           Shape::kRegistersA,
          Shape::kRegistersB, executeMma<K, E, kHalf>, propagateMma<K, E, kHalf>};
}

const std::vector<MmaForm>& mmaForms() {
  static const std::vector<MmaForm> forms = {
      mmaForm<16, Element::bf16, false>("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"),
      mmaForm<16, Element::f16, false>("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"),
      mmaForm<16, Element::f16, true>("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16"),
      mmaForm<8, Element::bf16, false>("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32"),
      mmaForm<8, Element::f16, false>("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32"),
      mmaForm<8, Element::f16, true>("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16"),
      mmaForm<8, Element::tf32, false>("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"),
      mmaForm<4, Element::tf32, false>("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32")};
  return forms;
}

bool decodeMma(Decoder& decoder) {
  for (const MmaForm& form : mmaForms()) {
    if (decoder.opcode() != form.spelling) continue;
    const bool half = form.d == 2;
    auto items = [&](size_t index, int count) {
      const Operand& operand = decoder.operand(index);
      const std::vector<Operand> list =
          operand.kind == Operand::Kind::vector ? operand.items : std::vector<Operand>{operand};
      if (list.size() != static_cast<size_t>(count)) decoder.unsupported("another number of registers");
      return list;
    };
    const OperandType accumulator = half ? OperandType::bits32 : OperandType::float32;
    for (const Operand& item : items(0, form.d)) decoder.destination(item, accumulator);
    for (const Operand& item : items(1, form.a)) decoder.source(item, OperandType::bits32);
    for (const Operand& item : items(2, form.b)) decoder.source(item, OperandType::bits32);
    for (const Operand& item : items(3, form.d)) decoder.source(item, accumulator);
    decoder.inst.execute = form.execute;
    decoder.inst.propagate = form.propagate;
    decoder.inst.kind = Kind::convergeHere;
    decoder.inst.category = Category::warpLevel;
    return true;
  }
  decoder.unsupported();
}

}  // namespace

void listMmaForms(std::vector<std::string>& names) {
  for (const MmaForm& form : mmaForms()) names.push_back(form.spelling);
}

bool decodeMatrix(Decoder& decoder) {
  if (decoder.base() == "ldmatrix" || decoder.base() == "stmatrix") return decodeMatrixMove(decoder);
  if (decoder.base() == "mma") return decodeMma(decoder);
  return false;
}

}  // namespace ptxemu
