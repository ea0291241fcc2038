// Converts JavaScript arguments to C++ by the parameter types of the operation, and results back. A new
// operation needs no code here.
#pragma once

#include <napi.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "addon/environment.h"
#include "addon/tensor_handle.h"
#include "core/tensor.h"
#include "ops/soft_routing.h"
#include "ops/sparse_routing.h"

namespace softmoe::addon {

// A JavaScript value with the name that errors call it by.
struct Argument {
  Napi::Value value;
  const char* name;

  [[noreturn]] void refuse(const std::string& wanted) const {
    throw Error("ERR_INVALID_ARGUMENT", std::string(name) + " is " + given() + "; wanted " + wanted);
  }
  std::string given() const {
    switch (value.Type()) {
      case napi_undefined:
        return "undefined";
      case napi_null:
        return "null";
      case napi_number:
        return std::to_string(value.As<Napi::Number>().DoubleValue());
      case napi_string:
        return "'" + value.As<Napi::String>().Utf8Value() + "'";
      case napi_boolean:
        return value.As<Napi::Boolean>().Value() ? "true" : "false";
      default:
        return "of another type";
    }
  }
  Argument member(const char* key) const {
    if (!value.IsObject()) refuse("an object");
    return {value.As<Napi::Object>().Get(key), key};
  }
};

template <class T, class Enable = void>
struct Convert;

template <>
struct Convert<double> {
  static double from(const Argument& argument) {
    if (!argument.value.IsNumber()) argument.refuse("a number");
    return argument.value.As<Napi::Number>().DoubleValue();
  }
};

template <>
struct Convert<std::int64_t> {
  static std::int64_t from(const Argument& argument) {
    const double number = Convert<double>::from(argument);
    constexpr double kLargest = 9007199254740991.0;
    if (!(std::fabs(number) <= kLargest) || number != std::floor(number)) argument.refuse("a whole number");
    return static_cast<std::int64_t>(number);
  }
};

template <>
struct Convert<bool> {
  static bool from(const Argument& argument) {
    if (!argument.value.IsBoolean()) argument.refuse("true or false");
    return argument.value.As<Napi::Boolean>().Value();
  }
};

template <>
struct Convert<std::string> {
  static std::string from(const Argument& argument) {
    if (!argument.value.IsString()) argument.refuse("a string");
    return argument.value.As<Napi::String>().Utf8Value();
  }
};

template <class E>
struct EnumNames;

template <class E>
struct Convert<E, std::enable_if_t<std::is_enum_v<E>>> {
  static E from(const Argument& argument) {
    std::string wanted;
    if (argument.value.IsString()) {
      const std::string name = argument.value.As<Napi::String>().Utf8Value();
      for (const auto& [text, value] : EnumNames<E>::kNames) {
        if (name == text) return value;
      }
    }
    for (const auto& entry : EnumNames<E>::kNames) {
      wanted += (wanted.empty() ? "'" : ", '") + std::string(entry.first) + "'";
    }
    argument.refuse("one of " + wanted);
  }
};

#define SOFTMOE_ENUM_NAMES(Enum, ...)                                     \
  template <>                                                             \
  struct EnumNames<Enum> {                                                \
    static constexpr std::pair<const char*, Enum> kNames[] = __VA_ARGS__; \
  }
SOFTMOE_ENUM_NAMES(DType,
                   {{"float32", DType::kFloat32}, {"bfloat16", DType::kBFloat16}, {"int32", DType::kInt32}});
SOFTMOE_ENUM_NAMES(Activation, {{"none", Activation::kNone},
                                {"gelu", Activation::kGeluTanh},
                                {"gelu-erf", Activation::kGeluErf},
                                {"tanh", Activation::kTanh}});
SOFTMOE_ENUM_NAMES(WeightFormat, {{"float32", WeightFormat::kFloat32},
                                  {"bfloat16", WeightFormat::kBFloat16},
                                  {"int8", WeightFormat::kInt8}});
SOFTMOE_ENUM_NAMES(Distribution, {{"uniform", Distribution::kUniform},
                                  {"normal", Distribution::kNormal},
                                  {"truncated-normal", Distribution::kTruncatedNormal}});
SOFTMOE_ENUM_NAMES(CrossEntropyKind,
                   {{"softmax", CrossEntropyKind::kSoftmax}, {"sigmoid", CrossEntropyKind::kSigmoid}});
SOFTMOE_ENUM_NAMES(RoutingWeights, {{"soft", RoutingWeights::kSoft},
                                    {"uniform", RoutingWeights::kUniform},
                                    {"identity", RoutingWeights::kIdentity}});
SOFTMOE_ENUM_NAMES(RoutingSide, {{"dispatch", RoutingSide::kDispatch}, {"combine", RoutingSide::kCombine}});
SOFTMOE_ENUM_NAMES(RoutingPriority, {{"none", RoutingPriority::kTokenOrder},
                                     {"max", RoutingPriority::kMaxGate},
                                     {"sum", RoutingPriority::kSumOfGates}});
SOFTMOE_ENUM_NAMES(RouterLoss, {{"importance", RouterLoss::kImportance},
                                {"load", RouterLoss::kLoad},
                                {"gshard", RouterLoss::kGshard},
                                {"z", RouterLoss::kZ}});
#undef SOFTMOE_ENUM_NAMES

template <>
struct Convert<Tensor> {
  static Tensor from(const Argument& argument) {
    const TensorHandle* handle = TensorHandle::unwrap(argument.value);
    if (handle == nullptr) argument.refuse("a tensor");
    if (!handle->tensor()) {
      throw Error("ERR_DISPOSED",
                  std::string(argument.name) +
                      " was disposed; keep the tensor until its last use, or return it from scope()");
    }
    return handle->tensor();
  }
};

template <>
struct Convert<RandomKey> {
  static RandomKey from(const Argument& argument) {
    const std::int64_t seed = Convert<std::int64_t>::from(argument.member("seed"));
    const std::int64_t stream = Convert<std::int64_t>::from(argument.member("stream"));
    return {static_cast<std::uint64_t>(seed), static_cast<std::uint64_t>(stream)};
  }
};

template <class T>
struct Convert<std::optional<T>> {
  static std::optional<T> from(const Argument& argument) {
    if (argument.value.IsUndefined() || argument.value.IsNull()) return std::nullopt;
    return Convert<T>::from(argument);
  }
};

template <class T>
struct Convert<std::vector<T>> {
  static std::vector<T> from(const Argument& argument) {
    if (!argument.value.IsArray()) argument.refuse("an array");
    const auto array = argument.value.As<Napi::Array>();
    std::vector<T> items;
    items.reserve(array.Length());
    for (std::uint32_t i = 0; i < array.Length(); ++i) {
      items.push_back(Convert<T>::from({array.Get(i), argument.name}));
    }
    return items;
  }
};

template <>
struct Convert<Shape> {
  static Shape from(const Argument& argument) {
    const auto dims = Convert<std::vector<std::int64_t>>::from(argument);
    return Shape(dims.data(), static_cast<int>(dims.size()));
  }
};

// A device is known to JavaScript as { kind, index }.
template <>
struct Convert<std::shared_ptr<Device>> {
  static std::shared_ptr<Device> from(const Argument& argument) {
    const std::string kind = Convert<std::string>::from(argument.member("kind"));
    if (kind != "cpu" && kind != "cuda") argument.refuse("a device of kind 'cpu' or 'cuda'");
    const std::int64_t index = Convert<std::int64_t>::from(argument.member("index"));
    if (index < 0 || index > 1023) argument.refuse("a device index from 0 to 1023");
    return Environment::of(argument.value.Env()).device(kind, static_cast<int>(index));
  }
};

template <>
struct Convert<ops::SoftRoutingOperands> {
  static ops::SoftRoutingOperands from(const Argument& argument) {
    ops::SoftRoutingOperands operands;
    operands.batch = Convert<std::int64_t>::from(argument.member("batch"));
    operands.tokens = Convert<std::int64_t>::from(argument.member("tokens"));
    operands.experts = Convert<std::int64_t>::from(argument.member("numExperts"));
    operands.slots_per_expert = Convert<std::int64_t>::from(argument.member("slotsPerExpert"));
    operands.dispatch = Convert<RoutingWeights>::from(argument.member("dispatch"));
    operands.combine = Convert<RoutingWeights>::from(argument.member("combine"));
    operands.logits = Convert<std::optional<Tensor>>::from(argument.member("logits"));
    operands.dispatch_lse = Convert<std::optional<Tensor>>::from(argument.member("dispatchLse"));
    operands.combine_lse = Convert<std::optional<Tensor>>::from(argument.member("combineLse"));
    operands.mask = Convert<std::optional<Tensor>>::from(argument.member("mask"));
    return operands;
  }
};

template <>
struct Convert<ops::RowListOperands> {
  static ops::RowListOperands from(const Argument& argument) {
    return {Convert<Tensor>::from(argument.member("expertOffsets")),
            Convert<Tensor>::from(argument.member("rowToken")),
            Convert<Tensor>::from(argument.member("tokenOffsets")),
            Convert<Tensor>::from(argument.member("tokenRows"))};
  }
};

inline Napi::Value to_value(Napi::Env env, const Tensor& tensor) { return TensorHandle::wrap(env, tensor); }
inline Napi::Value to_value(Napi::Env env, double number) { return Napi::Number::New(env, number); }
inline Napi::Value to_value(Napi::Env env, const std::string& text) { return Napi::String::New(env, text); }
template <class T>
Napi::Value to_value(Napi::Env env, const std::optional<T>& value) {
  return value ? to_value(env, *value) : env.Null();
}
template <class... T>
Napi::Value to_value(Napi::Env env, const std::tuple<T...>& values) {
  const Napi::Array array = Napi::Array::New(env, sizeof...(T));
  std::uint32_t i = 0;
  std::apply([&](const T&... value) { (array.Set(i++, to_value(env, value)), ...); }, values);
  return array;
}

// Runs `body`; an Error becomes a SoftMoEError that is thrown in JavaScript.
template <class Body>
Napi::Value guarded(Napi::Env env, const Body& body) {
  try {
    return body();
  } catch (const Error& error) {
    throw Napi::Error(env, Environment::of(env).make_error(error.code(), error.what()));
  } catch (const std::bad_alloc&) {
    throw Napi::Error(
        env, Environment::of(env).make_error(
                 "ERR_OUT_OF_MEMORY", "the process has no memory left; dispose tensors you no longer need"));
  }
}

template <auto Function>
struct Call;

template <class Result, class... Parameters, Result (*Function)(Parameters...)>
struct Call<Function> {
  static Napi::Value invoke(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return run(info, std::index_sequence_for<Parameters...>()); });
  }

 private:
  template <std::size_t... I>
  static Napi::Value run(const Napi::CallbackInfo& info, std::index_sequence<I...>) {
    static constexpr const char* kNames[] = {"argument 1",  "argument 2",  "argument 3",  "argument 4",
                                             "argument 5",  "argument 6",  "argument 7",  "argument 8",
                                             "argument 9",  "argument 10", "argument 11", "argument 12",
                                             "argument 13", "argument 14"};
    static_assert(sizeof...(Parameters) <= std::size(kNames));
    // Braced initialisation converts the arguments from left to right.
    std::tuple<std::decay_t<Parameters>...> arguments{
        Convert<std::decay_t<Parameters>>::from(Argument{info[I], kNames[I]})...};
    if constexpr (std::is_void_v<Result>) {
      std::apply(Function, arguments);
      return info.Env().Undefined();
    } else {
      return to_value(info.Env(), std::apply(Function, arguments));
    }
  }
};

}  // namespace softmoe::addon
