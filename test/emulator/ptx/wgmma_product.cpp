// The arithmetic of wgmma.mma_async and its operands in shared memory. Each of the four warps of a group
// computes 16 rows; sums run over k in ascending order, in float32.
#include <cstring>

#include "block.h"
#include "rounding.h"
#include "wgmma.h"

namespace ptxemu {

MatrixDescriptor::MatrixDescriptor(uint64_t bits)
    : start(static_cast<uint32_t>(bits & 0x3fff) << 4),
      leading(static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4),
      stride(static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4),
      baseOffset(static_cast<uint32_t>(bits >> 49 & 7)) {
  static constexpr int spans[] = {0, 128, 64, 32};
  swizzle = spans[bits >> 62];
}

uint32_t MatrixDescriptor::address(int outer, int k, bool transposed, int elementBytes) const {
  const int t = 16 / elementBytes;  // elements of 16 bytes
  uint32_t offset;
  if (!transposed) {
    // 8 rows of one span each; without swizzle, matrices of 8 rows of 16 bytes.
    if (swizzle == 0)
      offset = outer / 8 * stride + k / t * leading + outer % 8 * 16 + k % t * elementBytes;
    else
      offset = outer / 8 * stride + outer % 8 * swizzle + k * elementBytes;
  } else if (swizzle == 0) {
    offset = outer / t * stride + k / 8 * leading + k % 8 * 16 + outer % t * elementBytes;
  } else {
    const int span = swizzle / elementBytes;
    offset = outer / span * leading + outer % span * elementBytes + k % 8 * swizzle + k / 8 * stride;
  }
  const uint32_t place = start + offset;
  const uint32_t bits = swizzle == 128 ? 0x70 : swizzle == 64 ? 0x30 : swizzle == 32 ? 0x10 : 0;
  return place ^ (place >> 3 & bits);
}

namespace {

constexpr uint32_t kPieceBytes = 16;

// One operand in shared memory as a warp sees it.
struct SharedOperand {
  MatrixDescriptor descriptor;
  int first, count;  // rows of A or columns of B
  bool transposed;
  int elementBytes, depth;
};

// Calls visit(address, outer, k) for each 16 bytes: elements (outer, k), (outer, k + 1), … or, when
// transposed, (outer, k), (outer + 1, k), …; outer counts from the first. Ends when visit says no.
template <class Visit>
bool forPieces(const SharedOperand& operand, Visit visit) {
  const int t = 16 / operand.elementBytes;
  const int outerStep = operand.transposed ? t : 1, kStep = operand.transposed ? 1 : t;
  for (int outer = 0; outer < operand.count; outer += outerStep) {
    for (int k = 0; k < operand.depth; k += kStep) {
      const uint32_t address =
          operand.descriptor.address(operand.first + outer, k, operand.transposed, operand.elementBytes);
      if (!visit(address, outer, k)) return false;
    }
  }
  return true;
}

SharedOperand operandA(const Warp& warp, const FlyingProduct& product, const ProductShape& shape) {
  return {MatrixDescriptor(product.descriptorA),
          warp.id % 4 * kProductRows,
          kProductRows,
          shape.transposeA,
          shape.elementBytes(),
          shape.depth()};
}

SharedOperand operandB(const FlyingProduct& product, const ProductShape& shape) {
  return {MatrixDescriptor(product.descriptorB), 0,
          shape.columns,                         shape.transposeB,
          shape.elementBytes(),                  shape.depth()};
}

// Notes undefined elements by mark(outer).
template <class Mark>
bool checkOperand(Warp& warp, const Inst& inst, const SharedOperand& operand, Mark mark) {
  Block& block = *warp.block;
  if (operand.descriptor.baseOffset) {
    warp.fault(Fault::illegalAddress, "unsupported", inst, 0, operand.descriptor.start,
               "matrix descriptors with a base offset are not supported");
    return false;
  }
  return forPieces(operand, [&](uint32_t address, int outer, int) {
    if (uint64_t(address) + kPieceBytes > block.launch.sharedBytes) {
      warp.fault(Fault::illegalAddress, "shared-bounds", inst, 0, address,
                 "a matrix descriptor points over the end of shared memory");
      return false;
    }
    if (warp.definedness) {
      for (uint32_t byte = 0; byte < kPieceBytes; byte++) {
        if (block.sharedUndefined[address + byte])
          mark(outer + (operand.transposed ? static_cast<int>(byte) / operand.elementBytes : 0));
      }
    }
    if (block.checks.races) {
      const int other = block.races.readShared(warp.id, address, kPieceBytes);
      if (other >= 0) {
        warp.report("race", inst, 0, address,
                    "reads shared memory that is not ordered before it, of warp " + std::to_string(other));
      }
    }
    return true;
  });
}

float elementAt(ProductElement element, const uint8_t* bytes) {
  if (element == ProductElement::tf32) {
    // Hardware ignores the low 13 bits.
    uint32_t bits;
    std::memcpy(&bits, bytes, 4);
    bits &= 0xffffe000u;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, bytes, 2);
  return element == ProductElement::bf16 ? fromBfloat(bits) : fromHalf(bits);
}

struct Scratch {
  float a[kProductRows][kProductDepth];
  float b[kProductDepth][kProductColumns];
  float c[kProductRows][kProductColumns];
};

template <class Store>
void loadShared(const Block& block, const SharedOperand& operand, ProductElement element, Store store) {
  forPieces(operand, [&](uint32_t address, int outer, int k) {
    for (int i = 0; i < 16 / operand.elementBytes; i++) {
      const float value = elementAt(element, &block.shared[address + i * operand.elementBytes]);
      store(outer + (operand.transposed ? i : 0), k + (operand.transposed ? 0 : i), value);
    }
    return true;
  });
}

// Where element (row, k) of A lies in registers (PTX ISA, "Register Fragments"): as in mma.m16n8k16 and
// m16n8k8.
float registerElement(const FlyingProduct& product, const ProductShape& shape, int row, int k) {
  if (shape.element == ProductElement::tf32) {
    const uint32_t word = product.registersA[row / 8 + k / 4 * 2][row % 8 * 4 + k % 4];
    return elementAt(shape.element, reinterpret_cast<const uint8_t*>(&word));
  }
  const uint32_t word = product.registersA[row / 8 + k / 8 * 2][row % 8 * 4 + k % 8 / 2];
  const uint16_t half = static_cast<uint16_t>(word >> k % 2 * 16);
  return elementAt(shape.element, reinterpret_cast<const uint8_t*>(&half));
}

struct Place {
  int row, column;
};
Place accumulatorPlace(int reg, int lane) {
  return {lane / 4 + reg % 4 / 2 * 8, reg / 4 * 8 + lane % 4 * 2 + reg % 2};
}

}  // namespace

bool checkOperands(Warp& warp, FlyingProduct& product) {
  const ProductShape shape = shapeOf(*product.inst);
  if (!shape.registersA &&
      !checkOperand(warp, *product.inst, operandA(warp, product, shape),
                    [&](int row) { product.undefinedRows |= 1u << row; })) {
    return false;
  }
  return checkOperand(warp, *product.inst, operandB(product, shape),
                      [&](int column) { product.undefinedColumns[column] = true; });
}

void addProduct(Warp& warp, FlyingProduct& product) {
  static thread_local Scratch s;
  const ProductShape shape = shapeOf(*product.inst);
  const Block& block = *warp.block;
  const float signA = shape.negateA ? -1.0f : 1.0f, signB = shape.negateB ? -1.0f : 1.0f;
  if (shape.registersA) {
    for (int row = 0; row < kProductRows; row++) {
      for (int k = 0; k < shape.depth(); k++) s.a[row][k] = signA * registerElement(product, shape, row, k);
    }
  } else {
    loadShared(block, operandA(warp, product, shape), shape.element,
               [&](int row, int k, float value) { s.a[row][k] = signA * value; });
  }
  loadShared(block, operandB(product, shape), shape.element,
             [&](int column, int k, float value) { s.b[k][column] = signB * value; });
  FlyingAccumulators& sums = *product.accumulators;
  for (int reg = 0; reg < shape.registers(); reg++) {
    for (int lane = 0; lane < kLanes; lane++) {
      const Place at = accumulatorPlace(reg, lane);
      s.c[at.row][at.column] = product.addsToAccumulators ? sums.values[reg][lane] : 0.0f;
    }
  }
  for (int row = 0; row < kProductRows; row++) {
    for (int k = 0; k < shape.depth(); k++) {
      const float a = s.a[row][k];
      for (int column = 0; column < shape.columns; column++)
        s.c[row][column] = __builtin_fmaf(a, s.b[k][column], s.c[row][column]);
    }
  }
  for (int reg = 0; reg < shape.registers(); reg++) {
    if (!product.addsToAccumulators) sums.undefined[reg] = 0;
    for (int lane = 0; lane < kLanes; lane++) {
      const Place at = accumulatorPlace(reg, lane);
      sums.values[reg][lane] = s.c[at.row][at.column];
      const bool spoiled = (product.undefinedRows >> at.row & 1) || product.undefinedColumns[at.column];
      sums.undefined[reg] |= Mask(spoiled) << lane;
    }
  }
}

}  // namespace ptxemu
