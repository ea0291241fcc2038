// Instructions across the lanes of a warp: votes, shuffles, matches, reductions, and bar.warp.sync.
#include <algorithm>

#include "block.h"
#include "decoder.h"
#include "definedness.h"

namespace ptxemu {
namespace {

enum ShuffleMode : uint8_t { kUp, kDown, kButterfly, kIndex };

// op: d, [p], a, b, c, member mask. Hardware reads lane j of the segment that c describes: the lower five
// bits clamp, the next give the segment's fixed bits.
void executeShuffle(Warp& warp, const Inst& inst, Mask mask) {
  const uint32_t* sources = inst.op + inst.destinations;
  uint32_t* d = warp.row<uint32_t>(inst.op[0]);
  const uint32_t *a = warp.row<uint32_t>(sources[0]), *b = warp.row<uint32_t>(sources[1]),
                 *c = warp.row<uint32_t>(sources[2]);
  uint32_t result[kLanes];
  uint8_t shadow[kLanes];
  const uint8_t* sourceShadow = warp.shadow(sources[0]);
  Mask inRange = 0;
  Mask fromInactive = 0;
  forLanes(mask, [&](int lane) {
    const int clamp = c[lane] & 31, segment = c[lane] >> 8 & 31, delta = b[lane] & 31;
    const int last = (lane & segment) | (clamp & ~segment), first = lane & segment;
    int from = lane;
    bool valid = false;
    switch (inst.flag) {
      case kUp:
        from = lane - delta, valid = from >= last;
        break;
      case kDown:
        from = lane + delta, valid = from <= last;
        break;
      case kButterfly:
        from = lane ^ delta, valid = from <= last;
        break;
      case kIndex:
        from = first | (delta & ~segment), valid = from <= last;
        break;
    }
    if (!valid) from = lane;
    inRange |= Mask(valid) << lane;
    if (!(mask >> from & 1)) fromInactive |= 1u << lane;
    result[lane] = a[from];
    shadow[lane] = sourceShadow[from] | (warp.shadow(sources[1])[lane] ? 0xff : 0);
  });
  if (fromInactive && warp.checking) {
    warp.report("inactive-lane", inst, firstLane(fromInactive), 0,
                "shuffle from a lane that does not take part");
  }
  forLanes(mask, [&](int lane) { d[lane] = result[lane]; });
  if (warp.tainted) {
    uint8_t* destination = warp.shadow(inst.op[0]);
    forLanes(mask, [&](int lane) { destination[lane] = shadow[lane]; });
  }
  if (inst.destinations > 1) {
    warp.setPredicate(inst.op[1], inRange, mask);
    clearShadow(warp, inst.op[1], mask);
  }
}

bool decodeShuffle(Decoder& decoder) {
  decoder.take("sync");
  const std::string mode = decoder.takeAny({"up", "down", "bfly", "idx"});
  if (mode.empty() || !decoder.take("b32")) decoder.unsupported();
  decoder.allTaken();
  const Operand& first = decoder.operand(0);
  if (first.kind == Operand::Kind::pair) {
    decoder.destination(first.items[0], OperandType::bits32);
    decoder.destination(first.items[1], OperandType::predicate);
  } else {
    decoder.destination(first, OperandType::bits32);
  }
  for (size_t i = 1; i <= 3; i++) decoder.source(decoder.operand(i), OperandType::bits32);
  decoder.inst.member = decoder.source(decoder.operand(4), OperandType::bits32);
  decoder.inst.flag = mode == "up" ? kUp : mode == "down" ? kDown : mode == "bfly" ? kButterfly : kIndex;
  decoder.inst.execute = executeShuffle;
  decoder.inst.propagate = propagateByItself;
  return true;
}

enum VoteMode : uint8_t { kAll, kAny, kUniform, kBallot };

void executeVote(Warp& warp, const Inst& inst, Mask mask) {
  Mask votes = warp.predicate(inst.op[1]);
  if (inst.immediate) votes = ~votes;
  votes &= mask;
  if (inst.flag == kBallot) {
    uint32_t* d = warp.row<uint32_t>(inst.op[0]);
    forLanes(mask, [&](int lane) { d[lane] = votes; });
  } else {
    const bool value = inst.flag == kAll   ? votes == mask
                       : inst.flag == kAny ? votes != 0
                                           : votes == 0 || votes == mask;
    warp.setPredicate(inst.op[0], value ? kAllLanes : 0, mask);
  }
}

// One undefined vote makes the result undefined for all.
void propagateAcross(Warp& warp, const Inst& inst, Mask mask) {
  Mask undefined = 0;
  for (int i = 0; i < inst.sources; i++)
    undefined |= undefinedLanes(warp, inst.op[inst.destinations + i]) & mask;
  for (int i = 0; i < inst.destinations; i++) setShadow(warp, inst.op[i], undefined ? 0xff : 0, mask);
}

bool decodeVote(Decoder& decoder) {
  decoder.take("sync");
  const std::string mode = decoder.takeAny({"all", "any", "uni", "ballot"});
  if (mode.empty()) decoder.unsupported();
  const bool ballot = mode == "ballot";
  if (!decoder.take(ballot ? "b32" : "pred")) decoder.unsupported();
  decoder.allTaken();
  decoder.destination(decoder.operand(0), ballot ? OperandType::bits32 : OperandType::predicate);
  decoder.source(decoder.operand(1), OperandType::predicate);
  decoder.inst.immediate = decoder.operand(1).negated;
  decoder.inst.member = decoder.source(decoder.operand(2), OperandType::bits32);
  decoder.inst.flag = mode == "all" ? kAll : mode == "any" ? kAny : mode == "uni" ? kUniform : kBallot;
  decoder.inst.execute = executeVote;
  decoder.inst.propagate = propagateAcross;
  return true;
}

template <class T>
void executeMatchAny(Warp& warp, const Inst& inst, Mask mask) {
  uint32_t* d = warp.row<uint32_t>(inst.op[0]);
  const T* a = warp.row<T>(inst.op[1]);
  uint32_t result[kLanes];
  forLanes(mask, [&](int lane) {
    Mask same = 0;
    forLanes(mask, [&](int other) { same |= Mask(a[other] == a[lane]) << other; });
    result[lane] = same;
  });
  forLanes(mask, [&](int lane) { d[lane] = result[lane]; });
}

template <class T>
void executeMatchAll(Warp& warp, const Inst& inst, Mask mask) {
  uint32_t* d = warp.row<uint32_t>(inst.op[0]);
  const T* a = warp.row<T>(inst.op[inst.destinations]);
  bool same = true;
  forLanes(mask, [&](int lane) { same &= a[lane] == a[firstLane(mask)]; });
  forLanes(mask, [&](int lane) { d[lane] = same ? mask : 0; });
  if (inst.destinations > 1) warp.setPredicate(inst.op[1], same ? kAllLanes : 0, mask);
}

bool decodeMatch(Decoder& decoder) {
  const bool any = decoder.take("any");
  if (!any && !decoder.take("all")) decoder.unsupported();
  decoder.take("sync");
  const std::string type = decoder.takeType();
  decoder.allTaken();
  if (type != "b32" && type != "b64") decoder.unsupported();
  const Operand& first = decoder.operand(0);
  if (first.kind == Operand::Kind::pair) {
    decoder.destination(first.items[0], OperandType::bits32);
    decoder.destination(first.items[1], OperandType::predicate);
  } else {
    decoder.destination(first, OperandType::bits32);
  }
  decoder.source(decoder.operand(1), bitsType(typeBytes(type)));
  decoder.inst.member = decoder.source(decoder.operand(2), OperandType::bits32);
  const bool wide = type == "b64";
  decoder.inst.execute = any ? (wide ? executeMatchAny<uint64_t> : executeMatchAny<uint32_t>)
                             : (wide ? executeMatchAll<uint64_t> : executeMatchAll<uint32_t>);
  decoder.inst.propagate = propagateAcross;
  return true;
}

template <class T, class F>
Execute reduction(F combine) {
  static const F apply = combine;
  return [](Warp& warp, const Inst& inst, Mask mask) {
    T* d = warp.row<T>(inst.op[0]);
    const T* a = warp.row<T>(inst.op[1]);
    T value = a[firstLane(mask)];
    forLanes(mask & (mask - 1), [&](int lane) { value = apply(value, a[lane]); });
    forLanes(mask, [&](int lane) { d[lane] = value; });
  };
}

bool decodeRedux(Decoder& decoder) {
  static const std::unordered_map<std::string, Execute> forms = {
      {"add.s32", reduction<uint32_t>([](uint32_t a, uint32_t b) { return a + b; })},
      {"add.u32", reduction<uint32_t>([](uint32_t a, uint32_t b) { return a + b; })},
      {"min.s32", reduction<int32_t>([](int32_t a, int32_t b) { return std::min(a, b); })},
      {"max.s32", reduction<int32_t>([](int32_t a, int32_t b) { return std::max(a, b); })},
      {"min.u32", reduction<uint32_t>([](uint32_t a, uint32_t b) { return std::min(a, b); })},
      {"max.u32", reduction<uint32_t>([](uint32_t a, uint32_t b) { return std::max(a, b); })},
      {"and.b32", reduction<uint32_t>([](uint32_t a, uint32_t b) { return a & b; })},
      {"or.b32", reduction<uint32_t>([](uint32_t a, uint32_t b) { return a | b; })},
      {"xor.b32", reduction<uint32_t>([](uint32_t a, uint32_t b) { return a ^ b; })}};
  decoder.take("sync");
  if (decoder.modifiers().size() != 2) decoder.unsupported();
  const auto found = forms.find(decoder.modifiers()[0] + "." + decoder.modifiers()[1]);
  if (found == forms.end()) decoder.unsupported();
  decoder.destination(decoder.operand(0), OperandType::bits32);
  decoder.source(decoder.operand(1), OperandType::bits32);
  decoder.inst.member = decoder.source(decoder.operand(2), OperandType::bits32);
  decoder.inst.execute = found->second;
  decoder.inst.propagate = propagateAcross;
  return true;
}

void executeElect(Warp& warp, const Inst& inst, Mask mask) {
  uint32_t* d = warp.row<uint32_t>(inst.op[0]);
  const int leader = firstLane(mask);
  forLanes(mask, [&](int lane) { d[lane] = static_cast<uint32_t>(leader); });
  warp.setPredicate(inst.op[1], 1u << leader, mask);
}

bool decodeElect(Decoder& decoder) {
  decoder.take("sync");
  decoder.allTaken();
  const Operand& first = decoder.operand(0);
  if (first.kind != Operand::Kind::pair) decoder.unsupported();
  decoder.destination(first.items[0], OperandType::bits32);
  decoder.destination(first.items[1], OperandType::predicate);
  decoder.inst.member = decoder.source(decoder.operand(1), OperandType::bits32);
  decoder.inst.execute = executeElect;
  decoder.inst.propagate = propagateNothing;
  return true;
}

}  // namespace

bool decodeWarp(Decoder& decoder) {
  const std::string& base = decoder.base();
  Inst& inst = decoder.inst;
  inst.category = Category::warpLevel;
  if (base == "activemask") {
    decoder.destination(decoder.operand(0), OperandType::bits32);
    inst.propagate = propagateNothing;
    inst.execute = [](Warp& warp, const Inst& inst, Mask mask) {
      uint32_t* d = warp.row<uint32_t>(inst.op[0]);
      forLanes(mask, [&](int lane) { d[lane] = mask; });
    };
    return true;
  }
  if (decoder.opcode() == "bar.warp.sync" || decoder.opcode() == "barrier.warp.sync") {
    inst.member = decoder.source(decoder.operand(0), OperandType::bits32);
    inst.kind = Kind::convergeWarp;
    return true;
  }
  inst.kind = Kind::convergeHere;
  if (base == "shfl") return decodeShuffle(decoder);
  if (base == "vote") return decodeVote(decoder);
  if (base == "match") return decodeMatch(decoder);
  if (base == "redux") return decodeRedux(decoder);
  if (base == "elect") return decodeElect(decoder);
  inst.kind = Kind::plain;
  inst.category = Category::other;
  return false;
}

// -- barriers of the block
// ------------------------------------------------------------------------------------------

// bar{.cta}.sync id{, count}; bar.arrive id, count; bar.red.op d, id{, count}, {!}p. `barrier` without
// .aligned may be executed by lanes apart.
bool decodeBarrier(Decoder& decoder) {
  const std::string& base = decoder.base();
  if (base != "bar" && base != "barrier") return false;
  Inst& inst = decoder.inst;
  decoder.take("cta");
  const bool aligned = decoder.take("aligned") || base == "bar";
  if (decoder.take("cluster")) {
    // A cluster is one block here, so its barrier is the block's number 15.
    const bool arrive = decoder.take("arrive"), wait = decoder.take("wait");
    decoder.takeAny({"release", "relaxed", "acquire"});
    decoder.allTaken();
    if (!arrive && !wait) decoder.unsupported();
    inst.category = Category::warpLevel;
    inst.kind = wait ? Kind::barrier : Kind::plain;
    inst.execute = [](Warp&, const Inst&, Mask) {};
    if (wait) inst.address = decoder.sourceRow(decoder.context().constantRow(15, 4));
    return true;
  }
  const std::string mode = decoder.takeAny({"sync", "arrive", "red"});
  const std::string reduction = decoder.takeAny({"popc", "and", "or"});
  const std::string type = decoder.takeAny({"u32", "pred"});
  decoder.allTaken();
  if (mode.empty() || (mode == "red") == reduction.empty()) decoder.unsupported();
  size_t next = 0;
  if (mode == "red") {
    decoder.destination(decoder.operand(next++),
                        type == "u32" ? OperandType::bits32 : OperandType::predicate);
  }
  inst.address = decoder.source(decoder.operand(next++), OperandType::bits32);
  const size_t left = decoder.operandCount() - next;
  if (left == (mode == "red" ? 2u : 1u)) {
    decoder.source(decoder.operand(next++), OperandType::bits32);
    inst.immediate |= kBarrierHasCount;
  }
  if (mode == "red") {
    decoder.source(decoder.operand(next), OperandType::predicate);
    if (decoder.operand(next).negated) inst.immediate |= kBarrierNegated;
  }
  if (aligned) inst.immediate |= kBarrierAligned;
  inst.flag = mode == "sync"        ? kBarrierSync
              : mode == "arrive"    ? kBarrierArrive
              : reduction == "popc" ? kBarrierPopc
              : reduction == "and"  ? kBarrierAnd
                                    : kBarrierOr;
  inst.kind = Kind::barrier;
  inst.category = Category::warpLevel;
  inst.propagate = propagateNothing;
  return true;
}

}  // namespace ptxemu
