#include "lexer.h"

#include <cctype>

#include "engine.h"

namespace ptxemu {
namespace {

bool startsWord(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' || c == '.';
}
bool continuesWord(char c) { return startsWord(c) || std::isdigit(static_cast<unsigned char>(c)); }

class Lexer {
 public:
  explicit Lexer(const std::string& text) : text_(text) {}

  std::vector<Token> run() {
    std::vector<Token> tokens;
    do {
      tokens.push_back(next());
    } while (tokens.back().kind != Token::Kind::end);
    return tokens;
  }

 private:
  char at(size_t ahead = 0) const {
    return position_ + ahead < text_.size() ? text_[position_ + ahead] : '\0';
  }

  void skipSpaceAndComments() {
    for (;;) {
      if (at() == '\n')
        line_++, position_++;
      else if (at() != '\0' && std::isspace(static_cast<unsigned char>(at())))
        position_++;
      else if (at() == '/' && at(1) == '/')
        while (at() != '\0' && at() != '\n') position_++;
      else if (at() == '/' && at(1) == '*') {
        const size_t end = text_.find("*/", position_ + 2);
        if (end == std::string::npos) throw ParseError(line_, "comment without end");
        for (; position_ < end + 2; position_++) line_ += text_[position_] == '\n';
      } else
        return;
    }
  }

  Token next() {
    skipSpaceAndComments();
    Token token;
    token.line = line_;
    const size_t start = position_;
    const char c = at();
    if (c == '\0') return token;
    if (startsWord(c)) {
      token.kind = Token::Kind::word;
      // "::" belongs to a modifier (shared::cta), a single ':' ends a label. Directives may stick together
      // (.reg.b16).
      const bool isDirective = c == '.';
      while (continuesWord(at()) || (at() == ':' && at(1) == ':' && continuesWord(at(2)))) {
        if (isDirective && at() == '.' && position_ > start) break;
        position_ += at() == ':' ? 2 : 1;
      }
    } else if (std::isdigit(static_cast<unsigned char>(c))) {
      token.kind = Token::Kind::number;
      const bool hexadecimal = c == '0' && std::string("xXfFdD").find(at(1)) != std::string::npos && at(1);
      position_ += hexadecimal ? 2 : 1;
      while (std::isalnum(static_cast<unsigned char>(at())) || (!hexadecimal && at() == '.') ||
             (!hexadecimal && (at() == '+' || at() == '-') && std::tolower(text_[position_ - 1]) == 'e')) {
        position_++;
      }
    } else if (c == '"') {
      token.kind = Token::Kind::text;
      const size_t end = text_.find('"', position_ + 1);
      if (end == std::string::npos) throw ParseError(line_, "string without end");
      position_ = end + 1;
      token.value = text_.substr(start + 1, end - start - 1);
      return token;
    } else {
      token.kind = Token::Kind::punctuation;
      position_++;
    }
    token.value = text_.substr(start, position_ - start);
    return token;
  }

  const std::string& text_;
  size_t position_ = 0;
  int line_ = 1;
};

}  // namespace

std::vector<Token> tokenize(const std::string& text) { return Lexer(text).run(); }

}  // namespace ptxemu
