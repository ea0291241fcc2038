#include "declarations.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

namespace ptxemu {

int typeBytes(const std::string& type) {
  static const std::unordered_map<std::string, int> sizes = {
      {"pred", 0}, {"b8", 1},    {"u8", 1},     {"s8", 1},     {"b16", 2},   {"u16", 2},   {"s16", 2},
      {"f16", 2},  {"bf16", 2},  {"e4m3x2", 2}, {"e5m2x2", 2}, {"b32", 4},   {"u32", 4},   {"s32", 4},
      {"f32", 4},  {"f16x2", 4}, {"bf16x2", 4}, {"tf32", 4},   {"u16x2", 4}, {"s16x2", 4}, {"b64", 8},
      {"u64", 8},  {"s64", 8},   {"f64", 8},    {"b128", 16}};
  const auto found = sizes.find(type);
  return found == sizes.end() ? -1 : found->second;
}

namespace {

void initializer(TokenStream& tokens, Variable& variable, size_t bytes, const std::string& type) {
  if (tokens.accept("{")) {
    if (tokens.accept("}")) return;
    do initializer(tokens, variable, bytes, type);
    while (tokens.accept(","));
    tokens.expect("}");
    return;
  }
  uint64_t bits = 0;
  if (tokens.peek().kind == Token::Kind::word) {
    std::string symbol = tokens.take().value;
    if (symbol == "generic") {
      tokens.expect("(");
      symbol = tokens.take().value;
      tokens.expect(")");
    }
    int64_t addend = 0;
    if (tokens.peek().is("+") || tokens.peek().is("-")) addend = tokens.integer();
    variable.relocations.push_back({variable.initial.size(), symbol, addend});
  } else {
    const Operand value = tokens.number();
    bits = value.bits;
    if (value.literal == Operand::Literal::decimal && type == "f32") {
      double wide;
      std::memcpy(&wide, &bits, 8);
      const float narrow = static_cast<float>(wide);
      uint32_t narrowBits;
      std::memcpy(&narrowBits, &narrow, 4);
      bits = narrowBits;
    }
  }
  const size_t at = variable.initial.size();
  variable.initial.resize(at + bytes);
  std::memcpy(&variable.initial[at], &bits, std::min<size_t>(bytes, 8));
}

}  // namespace

std::vector<Variable> parseVariables(TokenStream& tokens, Space space, bool external) {
  std::vector<Variable> found;
  uint32_t align = 0;
  std::string type;
  for (;;) {
    if (tokens.accept(".align"))
      align = static_cast<uint32_t>(tokens.integer());
    else if (tokens.accept(".attribute")) {
      while (!tokens.accept(")")) tokens.take();
    } else if (tokens.peek().is(".ptr") || tokens.peek().is(".global") || tokens.peek().is(".shared") || tokens.peek().is(".local") ||
               tokens.peek().is(".const"))
      tokens.take();
    else if (tokens.peek().value == ".v2" || tokens.peek().value == ".v4")
      tokens.fail("variables of vector type are not supported");
    else if (tokens.peek().value[0] == '.')
      type = tokens.take().value.substr(1);
    else
      break;
  }
  const int bytes = typeBytes(type);
  if (bytes <= 0) tokens.fail("'" + type + "' is not a type of a variable");
  do {
    Variable variable;
    variable.space = space;
    variable.external = external;
    variable.align = align ? align : static_cast<uint32_t>(bytes);
    variable.name = tokens.take().value;
    variable.bytes = static_cast<uint64_t>(bytes);
    while (tokens.accept("[")) {
      if (tokens.accept("]")) {
        variable.dynamic = true;
        variable.bytes = 0;
        continue;
      }
      variable.bytes *= static_cast<uint64_t>(tokens.integer());
      tokens.expect("]");
    }
    if (tokens.accept("=")) {
      initializer(tokens, variable, static_cast<size_t>(bytes), type);
      if (variable.initial.size() > variable.bytes) variable.bytes = variable.initial.size();
      if (variable.dynamic) variable.dynamic = false;
    }
    found.push_back(std::move(variable));
  } while (tokens.accept(","));
  // Parameters end with ',' or ')' of their list, all others with ';'.
  if (space != Space::param) tokens.expect(";");
  return found;
}

}  // namespace ptxemu
