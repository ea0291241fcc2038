// Cuts PTX text into tokens. An opcode with its modifiers, a directive and a dotted register are one token
// each.
#pragma once

#include <string>
#include <vector>

namespace ptxemu {

struct Token {
  enum class Kind { word, number, text, punctuation, end };
  Kind kind = Kind::end;
  std::string value;
  int line = 0;
  bool is(const char* what) const { return kind != Kind::text && value == what; }
};

std::vector<Token> tokenize(const std::string& text);

}  // namespace ptxemu
