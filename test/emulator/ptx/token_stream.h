// Tokens of a PTX module one after the other, and the numbers among them.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "engine.h"
#include "lexer.h"
#include "syntax.h"

namespace ptxemu {

class TokenStream {
 public:
  explicit TokenStream(const std::string& text) : tokens_(tokenize(text)) {}

  [[noreturn]] void fail(const std::string& what) const { throw ParseError(peek().line, what); }
  const Token& peek(size_t ahead = 0) const {
    return tokens_[std::min(position_ + ahead, tokens_.size() - 1)];
  }
  Token take() {
    Token token = peek();
    if (position_ + 1 < tokens_.size()) position_++;
    return token;
  }
  bool accept(const char* what) {
    if (!peek().is(what)) return false;
    take();
    return true;
  }
  void expect(const char* what) {
    if (!accept(what)) fail("expected '" + std::string(what) + "' before '" + peek().value + "'");
  }
  void skipLine(int line) {
    while (peek().line == line && peek().kind != Token::Kind::end) take();
  }
  void skipBraces() {
    expect("{");
    for (int depth = 1; depth > 0;) {
      const Token token = take();
      if (token.kind == Token::Kind::end) fail("'}' is missing");
      depth += token.is("{") ? 1 : token.is("}") ? -1 : 0;
    }
  }
  Operand number();
  int64_t integer() { return static_cast<int64_t>(number().bits); }

 private:
  std::vector<Token> tokens_;
  size_t position_ = 0;
};

}  // namespace ptxemu
