// wgmma.mma_async m64nNk16 for bf16 and f16 with f32 accumulators. Each of the four warps computes 16 rows.
// Operands lie in shared memory as matrix descriptors say, A alternatively in registers. The product is
// computed when issued; fence, commit and wait are accepted and do nothing.
#include <cstring>

#include "access.h"
#include "decoder.h"
#include "definedness.h"
#include "matrix.h"
#include "rounding.h"

namespace ptxemu {
namespace {

constexpr int kRows = 16, kDepth = 16, kMaxColumns = 256;

// Shared memory matrix descriptor (PTX ISA, "Matrix Descriptor Format"): addresses and offsets in units of 16
// bytes.
struct Descriptor {
  uint32_t start, leading, stride;
  int swizzle;  // bytes of the swizzle span: 0, 32, 64, 128

  explicit Descriptor(uint64_t bits)
      : start(static_cast<uint32_t>(bits & 0x3fff) << 4),
        leading(static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4),
        stride(static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4) {
    static constexpr int spans[] = {0, 128, 64, 32};
    swizzle = spans[bits >> 62];
  }

  // Address of an element of two bytes. `outer` counts rows of A or columns of B, `k` the summed dimension;
  // `k` is the contiguous one unless the operand is transposed.
  uint32_t address(int outer, int k, bool transposed) const {
    uint32_t offset;
    if (!transposed) {
      // 8 rows of one span each; without swizzle, 8 x 16-byte core matrices.
      if (swizzle == 0)
        offset = outer / 8 * stride + k / 8 * leading + outer % 8 * 16 + k % 8 * 2;
      else
        offset = outer / 8 * stride + outer % 8 * swizzle + k * 2;
    } else if (swizzle == 0) {
      offset = outer / 8 * stride + k / 8 * leading + k % 8 * 16 + outer % 8 * 2;
    } else {
      const int span = swizzle / 2;  // elements
      offset = outer / span * leading + outer % span * 2 + k % 8 * swizzle + k / 8 * stride;
    }
    uint32_t place = start + offset;
    const uint32_t bits = swizzle == 128 ? 0x70 : swizzle == 64 ? 0x30 : swizzle == 32 ? 0x10 : 0;
    return place ^ (place >> 3 & bits);
  }
};

// What the instruction does; lies in Inst::immediate.
struct Shape {
  uint16_t columns = 0;
  bool bfloat = false, registersA = false, negateA = false, negateB = false, transposeA = false,
       transposeB = false;
};
Shape shapeOf(const Inst& inst) {
  Shape shape;
  std::memcpy(static_cast<void*>(&shape), &inst.immediate, sizeof shape);
  return shape;
}

struct Scratch {
  float a[kRows][kDepth];
  float b[kDepth][kMaxColumns];
  float c[kRows][kMaxColumns];
  uint32_t undefinedRows = 0;
  std::array<bool, kMaxColumns> undefinedColumns{};
};

float value(bool bfloat, uint16_t bits) { return bfloat ? fromBfloat(bits) : fromHalf(bits); }

// One element from shared memory with all checks; false ends the instruction.
bool loadElement(Warp& warp, const Inst& inst, uint32_t address, uint16_t& bits, bool& undefined) {
  Block& block = *warp.block;
  if (uint64_t(address) + 2 > block.launch.sharedBytes) {
    warp.fault(Fault::illegalAddress, "shared-bounds", inst, 0, address,
               "a matrix descriptor points over the end of shared memory");
    return false;
  }
  std::memcpy(&bits, &block.shared[address], 2);
  if (warp.definedness) undefined |= block.sharedUndefined[address] | block.sharedUndefined[address + 1];
  if (block.checks.races) {
    const int other = block.races.readShared(warp.id, address, 2);
    if (other >= 0) {
      warp.report("race", inst, 0, address,
                  "reads shared memory that is not ordered before it, of warp " + std::to_string(other));
    }
  }
  return true;
}

bool loadA(Warp& warp, const Inst& inst, const Shape& shape, const uint32_t* op, Scratch& s) {
  const int row0 = warp.id % 4 * kRows;
  for (int row = 0; row < kRows; row++) {
    for (int k = 0; k < kDepth; k++) {
      uint16_t bits = 0;
      bool undefined = false;
      if (shape.registersA) {
        const int lane = row % 8 * 4 + k % 8 / 2, reg = row / 8 + k / 8 * 2;
        bits = warp.row<uint16_t>(op[reg])[2 * lane + k % 2];
        undefined = warp.tainted && warp.shadow(op[reg])[lane];
      } else {
        const Descriptor descriptor(warp.row<uint64_t>(op[0])[0]);
        if (!loadElement(warp, inst, descriptor.address(row0 + row, k, shape.transposeA), bits, undefined))
          return false;
      }
      s.a[row][k] = shape.negateA ? -value(shape.bfloat, bits) : value(shape.bfloat, bits);
      s.undefinedRows |= uint32_t(undefined) << row;
    }
  }
  return true;
}

bool loadB(Warp& warp, const Inst& inst, const Shape& shape, uint32_t op, Scratch& s) {
  const Descriptor descriptor(warp.row<uint64_t>(op)[0]);
  for (int column = 0; column < shape.columns; column++) {
    for (int k = 0; k < kDepth; k++) {
      uint16_t bits = 0;
      bool undefined = false;
      if (!loadElement(warp, inst, descriptor.address(column, k, shape.transposeB), bits, undefined))
        return false;
      s.b[k][column] = shape.negateB ? -value(shape.bfloat, bits) : value(shape.bfloat, bits);
      s.undefinedColumns[column] |= undefined;
    }
  }
  return true;
}

// op: accumulators (destinations), accumulators again (sources), A (descriptor or four registers), B, scale.
void executeWgmma(Warp& warp, const Inst& inst, Mask mask) {
  if (!wholeWarp(warp, inst, mask)) return;
  const Shape shape = shapeOf(inst);
  const int registers = shape.columns / 2;
  const uint32_t* opA = inst.op + 2 * registers;
  const uint32_t opB = opA[shape.registersA ? 4 : 1];
  const Mask scale = warp.predicate(opA[shape.registersA ? 5 : 2]);
  Block& block = *warp.block;
  block.counters.mma++;
  block.counters.mmaFlops += 2ull * kRows * shape.columns * kDepth;
  static thread_local Scratch s;
  s.undefinedRows = 0;
  s.undefinedColumns.fill(false);
  if (!loadA(warp, inst, shape, opA, s) || !loadB(warp, inst, shape, opB, s)) return;
  auto place = [](int reg, int lane, int& row, int& column) {
    row = lane / 4 + reg % 4 / 2 * 8;
    column = reg / 4 * 8 + lane % 4 * 2 + reg % 2;
  };
  for (int reg = 0; reg < registers; reg++) {
    const float* d = warp.row<float>(inst.op[reg]);
    for (int lane = 0; lane < kLanes; lane++) {
      int row, column;
      place(reg, lane, row, column);
      s.c[row][column] = scale & 1 ? d[lane] : 0.0f;
    }
  }
  for (int row = 0; row < kRows; row++) {
    for (int k = 0; k < kDepth; k++) {
      const float a = s.a[row][k];
      for (int column = 0; column < shape.columns; column++) {
        s.c[row][column] = __builtin_fmaf(a, s.b[k][column], s.c[row][column]);
      }
    }
  }
  bool anyUndefined = s.undefinedRows != 0;
  for (int column = 0; column < shape.columns; column++) anyUndefined |= s.undefinedColumns[column];
  if (anyUndefined) warp.tainted = true;
  for (int reg = 0; reg < registers; reg++) {
    float* d = warp.row<float>(inst.op[reg]);
    uint8_t* shadow = warp.shadow(inst.op[reg]);
    for (int lane = 0; lane < kLanes; lane++) {
      int row, column;
      place(reg, lane, row, column);
      d[lane] = s.c[row][column];
      if (!warp.tainted) continue;
      const bool spoiled = (s.undefinedRows >> row & 1) || s.undefinedColumns[column];
      if (spoiled)
        shadow[lane] = 0xff;
      else if (!(scale & 1))
        shadow[lane] = 0;
    }
  }
}

bool decodeMmaAsync(Decoder& decoder) {
  Inst& inst = decoder.inst;
  decoder.take("sync"), decoder.take("aligned");
  Shape shape;
  const std::string& name = decoder.modifiers().empty() ? decoder.opcode() : decoder.modifiers()[0];
  if (name.compare(0, 4, "m64n") != 0 || name.size() < 8 || name.substr(name.size() - 3) != "k16")
    decoder.unsupported();
  shape.columns = static_cast<uint16_t>(std::stoi(name.substr(4, name.size() - 7)));
  if (shape.columns % 8 || shape.columns == 0 || shape.columns > kMaxColumns) decoder.unsupported();
  decoder.take(std::string(name));
  shape.bfloat = decoder.take("bf16");
  if (!decoder.take("f32") || !decoder.take(shape.bfloat ? "bf16" : "f16") ||
      (!shape.bfloat && !decoder.take("f16"))) {
    decoder.unsupported();
  }
  decoder.allTaken();
  const std::vector<Operand>& accumulators = decoder.operand(0).items;
  if (accumulators.size() != shape.columns / 2u) decoder.unsupported("another number of accumulators");
  for (const Operand& item : accumulators) decoder.destination(item, OperandType::float32);
  for (const Operand& item : accumulators) decoder.source(item, OperandType::float32);
  const Operand& a = decoder.operand(1);
  shape.registersA = a.kind == Operand::Kind::vector;
  if (shape.registersA) {
    if (a.items.size() != 4) decoder.unsupported();
    for (const Operand& item : a.items) decoder.source(item, OperandType::bits32);
  } else {
    decoder.source(a, OperandType::bits64);
  }
  decoder.source(decoder.operand(2), OperandType::bits64);
  decoder.source(decoder.operand(3), OperandType::predicate);
  shape.negateA = decoder.constantOf(decoder.operand(4)) == -1;
  shape.negateB = decoder.constantOf(decoder.operand(5)) == -1;
  size_t next = 6;
  if (!shape.registersA) shape.transposeA = decoder.constantOf(decoder.operand(next++)) == 1;
  shape.transposeB = decoder.constantOf(decoder.operand(next)) == 1;
  static_assert(sizeof(Shape) <= sizeof inst.immediate, "fits into the immediate");
  std::memcpy(&inst.immediate, static_cast<const void*>(&shape), sizeof shape);
  inst.kind = Kind::convergeHere;
  inst.elementBytes = 2;
  inst.space = Space::shared;
  inst.execute = executeWgmma;
  inst.propagate = propagateByItself;
  inst.category = Category::warpLevel;
  return true;
}

}  // namespace

bool decodeWgmma(Decoder& decoder) {
  if (decoder.base() != "wgmma") return false;
  if (decoder.take("mma_async")) return decodeMmaAsync(decoder);
  const std::string name = decoder.takeAny({"fence", "commit_group", "wait_group"});
  if (name.empty()) decoder.unsupported();
  decoder.inst.execute = [](Warp&, const Inst&, Mask) {};
  decoder.inst.category = Category::warpLevel;
  return true;
}

}  // namespace ptxemu
