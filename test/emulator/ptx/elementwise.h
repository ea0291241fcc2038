// Builds element-wise forms from scalar functions: one loop over 32 lanes, which the compiler vectorises.
#pragma once

#include <cstring>
#include <type_traits>
#include <utility>

#include "decoder.h"
#include "definedness.h"

namespace ptxemu {

template <class T>
constexpr OperandType operandTypeOf() {
  if constexpr (std::is_same_v<T, float>)
    return OperandType::float32;
  else if constexpr (std::is_same_v<T, double>)
    return OperandType::float64;
  else if constexpr (sizeof(T) == 2)
    return OperandType::bits16;
  else if constexpr (sizeof(T) == 4)
    return OperandType::bits32;
  else
    return OperandType::bits64;
}

template <class D, class... A, class F, size_t... I>
inline void runLanes(const F& apply, Warp& warp, const Inst& inst, Mask mask, std::index_sequence<I...>) {
  // Parameters, so that the compiler keeps the rows' addresses in registers.
  const auto loop = [&](D* d, const A*... a) {
    if (mask == kAllLanes) {
#pragma GCC ivdep
      for (int lane = 0; lane < kLanes; lane++) d[lane] = static_cast<D>(apply(a[lane]...));
    } else {
#pragma GCC ivdep
      for (int lane = 0; lane < kLanes; lane++) {
        const D value = static_cast<D>(apply(a[lane]...));
        d[lane] = (mask >> lane & 1) ? value : d[lane];
      }
    }
  };
  loop(warp.row<D>(inst.op[0]), warp.row<const A>(inst.op[I + 1])...);
}

// d[lane] = function(a[lane], ...) for the lanes of the mask. The function also runs for lanes outside the
// mask, on whatever they hold, so it must be total. The function object has no state: it is kept as a static
// of this very instantiation, as a C++17 lambda can't be made from its type alone.
template <class D, class... A, class F>
Form elementwise(F function) {
  static_assert(std::is_empty_v<F>, "a form's function must not capture");
  static const F apply = function;
  Form form;
  form.execute = [](Warp& warp, const Inst& inst, Mask mask) {
    runLanes<D, A...>(apply, warp, inst, mask, std::index_sequence_for<A...>());
  };
  form.propagate = propagateAny;
  form.destinations = {operandTypeOf<D>()};
  form.sources = {operandTypeOf<A>()...};
  return form;
}

// A predicate from two sources.
template <class A, class F>
Form comparison(F function) {
  static_assert(std::is_empty_v<F>, "a form's function must not capture");
  static const F holds = function;
  Form form;
  form.execute = [](Warp& warp, const Inst& inst, Mask mask) {
    const A* a = warp.row<const A>(inst.op[1]);
    const A* b = warp.row<const A>(inst.op[2]);
    alignas(32) uint8_t bytes[kLanes];
#pragma GCC ivdep
    for (int lane = 0; lane < kLanes; lane++) bytes[lane] = holds(a[lane], b[lane]) ? 0xff : 0;
    const __m256i packed = _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes));
    warp.setPredicate(inst.op[0], static_cast<Mask>(_mm256_movemask_epi8(packed)), mask);
  };
  form.propagate = propagateAny;
  form.destinations = {OperandType::predicate};
  form.sources = {operandTypeOf<A>(), operandTypeOf<A>()};
  return form;
}

template <class To, class From>
inline To bitCast(From from) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

}  // namespace ptxemu
