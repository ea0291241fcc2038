// wmma.load, wmma.mma, wmma.store: what nvcuda::wmma compiles to. How a fragment spreads over the lanes is
// not specified; here element e of lane l is element (l * count + e) of the matrix, row by row, where
// fragments with more elements than the matrix hold it several times.
#include <array>
#include <cstring>

#include "access.h"
#include "decoder.h"
#include "definedness.h"
#include "matrix.h"
#include "rounding.h"

namespace ptxemu {
namespace {

enum class Element : uint8_t { f16, bf16, tf32, f32 };

struct Shape {
  int m = 0, n = 0, k = 0;
};

bool shapeOf(const std::string& name, Shape& shape) {
  if (name == "m16n16k16")
    shape = {16, 16, 16};
  else if (name == "m32n8k16")
    shape = {32, 8, 16};
  else if (name == "m8n32k16")
    shape = {8, 32, 16};
  else if (name == "m16n16k8")
    shape = {16, 16, 8};
  else
    return false;
  return true;
}

bool elementOf(const std::string& type, Element& element) {
  if (type == "f16")
    element = Element::f16;
  else if (type == "bf16")
    element = Element::bf16;
  else if (type == "tf32")
    element = Element::tf32;
  else if (type == "f32")
    element = Element::f32;
  else
    return false;
  return true;
}
int bytesOfElement(Element element) { return element == Element::f16 || element == Element::bf16 ? 2 : 4; }

// What a load or store does; lies in Inst::immediate.
struct Fragment {
  Element element = Element::f32;
  uint8_t rows = 0, columns = 0;
  bool columnMajor = false, hasStride = false;

  int perLane(int registers) const { return registers * 4 / bytesOfElement(element); }
};

template <class T>
int64_t pack(const T& value) {
  int64_t bits = 0;
  static_assert(sizeof(T) <= sizeof bits, "fits into the immediate");
  std::memcpy(&bits, static_cast<const void*>(&value), sizeof(T));
  return bits;
}
template <class T>
T unpack(int64_t bits) {
  T value;
  std::memcpy(static_cast<void*>(&value), &bits, sizeof(T));
  return value;
}

// Places element e of every lane: address and host pointer relative to the matrix' first element.
void placeElements(const Fragment& fragment, uint32_t stride, int registers, int e, const Access& base,
                   Access& access) {
  const int size = bytesOfElement(fragment.element), total = fragment.rows * fragment.columns;
  const int count = fragment.perLane(registers);
  for (int lane = 0; lane < kLanes; lane++) {
    const int index = (lane * count + e) % total;
    const int row = index / fragment.columns, column = index % fragment.columns;
    const uint64_t offset =
        uint64_t(fragment.columnMajor ? uint64_t(column) * stride + row : uint64_t(row) * stride + column) *
        size;
    access.address[lane] = base.address[lane] + offset;
    access.pointer[lane] = base.pointer[lane] + offset;
  }
}

struct Located {
  Fragment fragment;
  uint32_t stride = 0;
  Access base;
};

// The matrix in memory: its space and first element, without counting an access of its own.
bool locate(Warp& warp, const Inst& inst, Mask mask, int strideOp, Located& found) {
  found.fragment = unpack<Fragment>(inst.immediate);
  Inst address = inst;
  address.immediate = inst.target;
  const bool checking = warp.checking;
  warp.checking = false;
  const bool oneSpace = resolve(warp, address, mask, inst.elementBytes, Use::load, found.base) == mask;
  warp.checking = checking;
  const Fragment& fragment = found.fragment;
  found.stride = fragment.hasStride     ? warp.row<uint32_t>(inst.op[strideOp])[0]
                 : fragment.columnMajor ? fragment.rows
                                        : fragment.columns;
  if (checking && warp.tainted && fragment.hasStride)
    reportUndefined(warp, inst, inst.op[strideOp], mask, "is a stride");
  return oneSpace;
}

void executeLoad(Warp& warp, const Inst& inst, Mask mask) {
  if (!wholeWarp(warp, inst, mask)) return;
  Located matrix;
  if (!locate(warp, inst, mask, inst.destinations + 1, matrix)) return;
  const uint32_t size = inst.elementBytes;
  std::array<std::array<uint8_t, kLanes>, 16> shadows{};
  bool any = false;
  for (int e = 0; e < matrix.fragment.perLane(inst.destinations); e++) {
    Access access;
    access.space = matrix.base.space;
    access.bytes = size;
    placeElements(matrix.fragment, matrix.stride, inst.destinations, e, matrix.base, access);
    if (warp.checking && !checkAccess(warp, inst, mask, Use::load, access)) return;
    const int reg = e * static_cast<int>(size) / 4, at = e * static_cast<int>(size) % 4;
    for (int lane = 0; lane < kLanes; lane++) {
      std::memcpy(warp.rows + inst.op[reg] + 4 * lane + at, access.pointer[lane], size);
      if (!warp.definedness) continue;
      const uint32_t undefined = undefinedBytesAt(warp, inst, access, lane, 0, size);
      shadows[reg][lane] |= static_cast<uint8_t>(undefined << at);
      any |= undefined != 0;
    }
  }
  if (!any && !warp.tainted) return;
  warp.tainted = true;
  for (int reg = 0; reg < inst.destinations; reg++)
    std::memcpy(warp.shadow(inst.op[reg]), shadows[reg].data(), kLanes);
}

void executeStore(Warp& warp, const Inst& inst, Mask mask) {
  if (!wholeWarp(warp, inst, mask)) return;
  Located matrix;
  const int registers = inst.flag;
  if (!locate(warp, inst, mask, 1 + registers, matrix)) return;
  const uint32_t size = inst.elementBytes;
  for (int e = 0; e < matrix.fragment.perLane(registers); e++) {
    Access access;
    access.space = matrix.base.space;
    access.bytes = size;
    placeElements(matrix.fragment, matrix.stride, registers, e, matrix.base, access);
    if (warp.checking && !checkAccess(warp, inst, mask, Use::store, access)) return;
    const int reg = e * static_cast<int>(size) / 4, at = e * static_cast<int>(size) % 4;
    for (int lane = 0; lane < kLanes; lane++) {
      std::memcpy(access.pointer[lane], warp.rows + inst.op[1 + reg] + 4 * lane + at, size);
      if (!warp.definedness) continue;
      const uint32_t undefined =
          warp.tainted ? warp.shadow(inst.op[1 + reg])[lane] >> at & ((1u << size) - 1) : 0;
      if (access.space != Space::global) {
        setUndefinedBytesAt(warp, access, lane, 0, size, undefined);
        continue;
      }
      if (undefined) {
        warp.report("undefined-value", inst, lane, access.address[lane],
                    "a value that was never written is stored to global memory");
      }
      if (auto* allocation = warp.block->launch.memory.containing(access.address[lane], size)) {
        allocation->markDefined(access.address[lane], size);
      }
    }
  }
}

// -- wmma.mma
// -------------------------------------------------------------------------------------------------------

struct Multiply {
  uint8_t m = 0, n = 0, k = 0;
  Element input = Element::f16, c = Element::f32, d = Element::f32;
};

float elementAt(Warp& warp, const uint32_t* registers, Element element, int count, int index) {
  // Any copy of the element will do: take the first.
  const int lane = index / count, e = index % count, size = bytesOfElement(element);
  uint32_t bits = 0;
  std::memcpy(&bits, warp.rows + registers[e * size / 4] + 4 * lane + e * size % 4, size);
  float value;
  if (element == Element::tf32) bits &= 0xffffe000u;
  std::memcpy(&value, &bits, 4);
  if (element == Element::f16) return fromHalf(static_cast<uint16_t>(bits));
  if (element == Element::bf16) return fromBfloat(static_cast<uint16_t>(bits));
  return value;
}

bool undefinedAt(Warp& warp, const uint32_t* registers, Element element, int count, int index) {
  const int lane = index / count, e = index % count, size = bytesOfElement(element);
  return warp.shadow(registers[e * size / 4])[lane] >> e * size % 4 & ((1 << size) - 1);
}

struct MultiplyOperands {
  Multiply form;
  const uint32_t *d, *a, *b, *c;
  int countA, countB;
};

MultiplyOperands operandsOf(const Inst& inst) {
  MultiplyOperands operands;
  operands.form = unpack<Multiply>(inst.immediate);
  operands.d = inst.op;
  operands.a = inst.op + inst.destinations;
  operands.b = operands.a + inst.flag;
  operands.c = operands.b + inst.vector;
  const int size = bytesOfElement(operands.form.input);
  operands.countA = inst.flag * 4 / size;
  operands.countB = inst.vector * 4 / size;
  return operands;
}

void executeMma(Warp& warp, const Inst& inst, Mask mask) {
  if (!wholeWarp(warp, inst, mask)) return;
  const MultiplyOperands o = operandsOf(inst);
  const int m = o.form.m, n = o.form.n, k = o.form.k;
  warp.block->counters.mma++;
  warp.block->counters.mmaFlops += 2ull * m * n * k;
  float a[32][16], b[16][32], c[256];
  for (int i = 0; i < m * k; i++) a[i / k][i % k] = elementAt(warp, o.a, o.form.input, o.countA, i);
  for (int i = 0; i < k * n; i++) b[i / n][i % n] = elementAt(warp, o.b, o.form.input, o.countB, i);
  for (int i = 0; i < m * n; i++) c[i] = elementAt(warp, o.c, o.form.c, 8, i);
  for (int row = 0; row < m; row++) {
    for (int i = 0; i < k; i++) {
      for (int column = 0; column < n; column++) {
        c[row * n + column] = __builtin_fmaf(a[row][i], b[i][column], c[row * n + column]);
      }
    }
  }
  for (int i = 0; i < m * n; i++) {
    const int lane = i / 8, e = i % 8;
    if (o.form.d == Element::f32) {
      warp.row<float>(o.d[e])[lane] = c[i];
    } else {
      warp.row<uint16_t>(o.d[e / 2])[2 * lane + e % 2] = toHalf(c[i]);
    }
  }
}

void propagateMma(Warp& warp, const Inst& inst, Mask) {
  const MultiplyOperands o = operandsOf(inst);
  const int m = o.form.m, n = o.form.n, k = o.form.k;
  std::array<bool, 32> rows{}, columns{};
  for (int i = 0; i < m * k; i++) rows[i / k] |= undefinedAt(warp, o.a, o.form.input, o.countA, i);
  for (int i = 0; i < k * n; i++) columns[i % n] |= undefinedAt(warp, o.b, o.form.input, o.countB, i);
  std::array<std::array<uint8_t, kLanes>, 8> shadows{};
  for (int i = 0; i < m * n; i++) {
    const int lane = i / 8, e = i % 8;
    const bool undefined = rows[i / n] || columns[i % n] || undefinedAt(warp, o.c, o.form.c, 8, i);
    if (!undefined) continue;
    if (o.form.d == Element::f32)
      shadows[e][lane] = 15;
    else
      shadows[e / 2][lane] |= 3 << e % 2 * 2;
  }
  for (int reg = 0; reg < inst.destinations; reg++)
    std::memcpy(warp.shadow(inst.op[reg]), shadows[reg].data(), kLanes);
}

bool decodeMma(Decoder& decoder) {
  Inst& inst = decoder.inst;
  decoder.take("sync");
  decoder.take("aligned");
  for (int i = 0; i < 2; i++) {
    if (decoder.takeAny({"row", "col"}).empty()) decoder.unsupported();
  }
  Shape shape;
  const std::string shapeName = decoder.takeAny({"m16n16k16", "m32n8k16", "m8n32k16", "m16n16k8"});
  if (!shapeOf(shapeName, shape)) decoder.unsupported();
  std::vector<Element> types;
  for (const std::string& modifier : decoder.modifiers()) {
    Element element;
    if (!elementOf(modifier, element)) decoder.unsupported();
    types.push_back(element);
  }
  Multiply form;
  form.m = static_cast<uint8_t>(shape.m), form.n = static_cast<uint8_t>(shape.n),
  form.k = static_cast<uint8_t>(shape.k);
  if (types.size() == 2) {
    form.d = types[0], form.c = types[1];
  } else if (types.size() == 4 && types[1] == types[2]) {
    form.d = types[0], form.input = types[1], form.c = types[3];
  } else {
    decoder.unsupported();
  }
  const bool isTf32 = form.input == Element::tf32;
  if (isTf32 != (shape.k == 8) || form.d == Element::bf16 || form.c == Element::bf16) decoder.unsupported();
  auto vector = [&](size_t index) {
    const Operand& operand = decoder.operand(index);
    if (operand.kind != Operand::Kind::vector) decoder.unsupported();
    return operand.items;
  };
  auto typeOf = [](Element element) {
    return element == Element::f32 ? OperandType::float32 : OperandType::bits32;
  };
  if (vector(0).size() != (form.d == Element::f32 ? 8u : 4u) ||
      vector(3).size() != (form.c == Element::f32 ? 8u : 4u)) {
    decoder.unsupported("another number of registers");
  }
  for (const Operand& item : vector(0)) decoder.destination(item, typeOf(form.d));
  for (const Operand& item : vector(1)) decoder.source(item, OperandType::bits32);
  for (const Operand& item : vector(2)) decoder.source(item, OperandType::bits32);
  for (const Operand& item : vector(3)) decoder.source(item, typeOf(form.c));
  inst.flag = static_cast<uint8_t>(vector(1).size());
  inst.vector = static_cast<uint8_t>(vector(2).size());
  const int perRegister = isTf32 ? 1 : 2;
  if (inst.flag * perRegister * kLanes < shape.m * shape.k ||
      inst.vector * perRegister * kLanes < shape.k * shape.n) {
    decoder.unsupported("another number of registers");
  }
  inst.immediate = pack(form);
  inst.execute = executeMma;
  inst.propagate = propagateMma;
  inst.category = Category::warpLevel;
  return true;
}

bool decodeTransfer(Decoder& decoder, bool isLoad) {
  Inst& inst = decoder.inst;
  const std::string part = decoder.takeAny({"a", "b", "c", "d"});
  decoder.take("sync");
  decoder.take("aligned");
  Fragment fragment;
  const std::string layout = decoder.takeAny({"row", "col"});
  Shape shape;
  const std::string shapeName = decoder.takeAny({"m16n16k16", "m32n8k16", "m8n32k16", "m16n16k8"});
  const std::string space = decoder.takeAny({"global", "shared::cta", "shared"});
  if (part.empty() || layout.empty() || !shapeOf(shapeName, shape)) decoder.unsupported();
  if (!elementOf(decoder.takeType(), fragment.element)) decoder.unsupported();
  decoder.allTaken();
  fragment.columnMajor = layout == "col";
  fragment.rows = static_cast<uint8_t>(part == "b" ? shape.k : shape.m);
  fragment.columns = static_cast<uint8_t>(part == "a" ? shape.k : shape.n);
  const OperandType type = fragment.element == Element::f32 ? OperandType::float32 : OperandType::bits32;
  const std::vector<Operand>& items = decoder.operand(isLoad ? 0 : 1).items;
  if (items.empty() || items.size() > 8) decoder.unsupported();
  if (isLoad) {
    for (const Operand& item : items) decoder.destination(item, type);
  }
  const Space where = space.empty() ? Space::generic : space == "global" ? Space::global : Space::shared;
  decoder.address(decoder.operand(isLoad ? 1 : 0), where);
  if (!isLoad) {
    for (const Operand& item : items) decoder.source(item, type);
  }
  fragment.hasStride = decoder.operandCount() > 2;
  if (fragment.hasStride) decoder.source(decoder.operand(2), OperandType::bits32);
  inst.flag = static_cast<uint8_t>(items.size());
  inst.elementBytes = static_cast<uint8_t>(bytesOfElement(fragment.element));
  if (fragment.perLane(static_cast<int>(items.size())) * kLanes < fragment.rows * fragment.columns)
    decoder.unsupported();
  inst.target = static_cast<int32_t>(inst.immediate);
  inst.immediate = pack(fragment);
  inst.execute = isLoad ? executeLoad : executeStore;
  inst.propagate = propagateByItself;
  inst.category = Category::memory;
  return true;
}

}  // namespace

bool decodeWmma(Decoder& decoder) {
  if (decoder.base() != "wmma") return false;
  decoder.inst.kind = Kind::convergeHere;
  if (decoder.take("mma")) return decodeMma(decoder);
  if (decoder.take("load")) return decodeTransfer(decoder, true);
  if (decoder.take("store")) return decodeTransfer(decoder, false);
  decoder.unsupported();
}

}  // namespace ptxemu
