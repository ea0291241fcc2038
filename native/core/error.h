// The one error type. `code` is stable and documented in lib/core/errors.ts; the message says what was given,
// what was wanted and what to do.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace softmoe {

class Error : public std::runtime_error {
 public:
  Error(std::string code, const std::string& message) : std::runtime_error(message), code_(std::move(code)) {}
  const std::string& code() const { return code_; }

 private:
  std::string code_;
};

}  // namespace softmoe
