// Fences, sleeps, traps, printf and assert.
#include <cstdio>
#include <cstring>

#include "access.h"
#include "decoder.h"
#include "definedness.h"
#include "matrix.h"

namespace ptxemu {
namespace {

void nothing(Warp&, const Inst&, Mask) {}

void executeFence(Warp& warp, const Inst&, Mask) {
  if (warp.block->checks.races) warp.block->races.fence(warp.id);
}

// The 64-bit value of an argument: a .param variable, which lies in local memory.
uint64_t argument(Warp& warp, const Inst& inst, int index, int lane) {
  const uint64_t offset = warp.row<uint64_t>(inst.op[index])[lane] & ~kWindowMask;
  uint64_t value;
  std::memcpy(&value, warp.local + size_t(warp.program->localBytes) * lane + offset, sizeof value);
  return value;
}

// Expands a device printf: arguments lie one after the other, each at a multiple of its size.
std::string formatted(Warp& warp, int lane, const char* format, const uint8_t* arguments) {
  std::string out;
  size_t offset = 0;
  auto next = [&](size_t bytes) {
    offset = (offset + bytes - 1) / bytes * bytes;
    uint64_t bits = 0;
    std::memcpy(&bits, arguments + offset, bytes);
    offset += bytes;
    return bits;
  };
  for (const char* at = format; *at; at++) {
    if (*at != '%') {
      out += *at;
      continue;
    }
    if (at[1] == '%') {
      out += *at++;
      continue;
    }
    const size_t length = std::strcspn(at, "diouxXcsfFeEgGaAp");
    if (!at[length]) break;
    const std::string conversion(at, length + 1);
    const char kind = at[length];
    const bool wide = conversion.find('l') != std::string::npos || conversion.find('z') != std::string::npos;
    char text[256];
    if (std::strchr("fFeEgGaA", kind)) {
      const uint64_t bits = next(8);
      double value;
      std::memcpy(&value, &bits, 8);
      std::snprintf(text, sizeof text, conversion.c_str(), value);
      out += text;
    } else if (kind == 's') {
      out += reinterpret_cast<const char*>(hostPointer(warp, lane, next(8)));
    } else if (kind == 'p') {
      std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(next(8)));
      out += text;
    } else if (wide) {
      std::snprintf(text, sizeof text, conversion.c_str(), next(8));
      out += text;
    } else {
      std::snprintf(text, sizeof text, conversion.c_str(), static_cast<uint32_t>(next(4)));
      out += text;
    }
    at += length;
  }
  return out;
}

void executePrintf(Warp& warp, const Inst& inst, Mask mask) {
  forLanes(mask, [&](int lane) {
    const char* format =
        reinterpret_cast<const char*>(hostPointer(warp, lane, argument(warp, inst, 0, lane)));
    const uint8_t* values = hostPointer(warp, lane, argument(warp, inst, 1, lane));
    const std::string text = formatted(warp, lane, format, values);
    std::fwrite(text.data(), 1, text.size(), stdout);
  });
}

void executeAssert(Warp& warp, const Inst& inst, Mask mask) {
  const int lane = firstLane(mask);
  const std::string message =
      reinterpret_cast<const char*>(hostPointer(warp, lane, argument(warp, inst, 0, lane)));
  warp.fault(Fault::assertion, "assert", inst, lane, 0, "assertion '" + message + "' failed");
}

// .param variables as addresses; they are read as they are used, not as registers.
void addArguments(Decoder& decoder, size_t count) {
  for (size_t i = 0; i < count; i++) decoder.source(decoder.operand(i), OperandType::bits64);
}

}  // namespace

bool decodeSystem(Decoder& decoder) {
  const std::string &opcode = decoder.opcode(), &base = decoder.base();
  Inst& inst = decoder.inst;
  inst.execute = nothing;
  inst.propagate = propagateByItself;
  if (base == "membar" || base == "fence") {
    const bool orders = base == "membar" || opcode.compare(0, 9, "fence.acq") == 0 || opcode == "fence.sc" ||
                        opcode.compare(0, 9, "fence.sc.") == 0;
    if (orders) inst.execute = executeFence;
    inst.category = Category::memory;
    return true;
  }
  if (base == "nanosleep") {
    inst.kind = Kind::yielding;
    inst.execute = [](Warp& warp, const Inst&, Mask) { warp.yield = true; };
    return true;
  }
  if (opcode == "trap" || opcode == "brkpt") {
    inst.category = Category::control;
    inst.execute = [](Warp& warp, const Inst& inst, Mask mask) {
      warp.fault(Fault::trap, "trap", inst, firstLane(mask), 0, "trap instruction");
    };
    return true;
  }
  if (base == "griddepcontrol" || base == "setmaxnreg" || base == "pmevent" || opcode == "$nop" ||
      base == "createpolicy") {
    if (base == "createpolicy") decoder.destination(decoder.operand(0), OperandType::bits64);
    return true;
  }
  if (opcode == "$vprintf") {
    addArguments(decoder, 2);
    inst.execute = executePrintf;
    return true;
  }
  if (opcode == "$assertfail") {
    addArguments(decoder, 1);
    inst.execute = executeAssert;
    return true;
  }
  return false;
}

void listFamilies(std::vector<std::string>& names) { listMmaForms(names); }

}  // namespace ptxemu
