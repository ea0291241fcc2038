#include "token_stream.h"

#include <cstdlib>
#include <cstring>

namespace ptxemu {

Operand TokenStream::number() {
  Operand operand;
  operand.kind = Operand::Kind::immediate;
  const bool negative = accept("-");
  if (!negative) accept("+");
  const Token token = take();
  if (token.kind != Token::Kind::number) fail("expected a number before '" + token.value + "'");
  const std::string& digits = token.value;
  const char base = digits.size() > 1 && digits[0] == '0' ? digits[1] : '\0';
  if (base == 'f' || base == 'F' || base == 'd' || base == 'D') {
    const bool isDouble = base == 'd' || base == 'D';
    operand.literal = isDouble ? Operand::Literal::float64 : Operand::Literal::float32;
    operand.bits = std::strtoull(digits.c_str() + 2, nullptr, 16);
    if (negative) operand.bits ^= isDouble ? 1ull << 63 : 1ull << 31;
  } else if (digits.find('.') != std::string::npos) {
    operand.literal = Operand::Literal::decimal;
    const double value = std::strtod(digits.c_str(), nullptr) * (negative ? -1 : 1);
    std::memcpy(&operand.bits, &value, 8);
  } else {
    operand.bits = base == 'b' ? std::strtoull(digits.c_str() + 2, nullptr, 2)
                               : std::strtoull(digits.c_str(), nullptr, 0);
    if (negative) operand.bits = 0 - operand.bits;
  }
  return operand;
}

}  // namespace ptxemu
