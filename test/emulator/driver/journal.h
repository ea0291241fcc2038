// Lines that leave the emulator: checker reports, launch counters, leaks, call counts. A place is "off",
// "stderr" or a file that is appended to, one whole line at a time, so that several processes can share it.
#pragma once

#include <mutex>
#include <string>

namespace softmoe::emulator {

class Journal {
 public:
  explicit Journal(std::string place) : place_(std::move(place)) {}

  bool enabled() const { return place_ != "off"; }

  // `text` goes to stderr, `json` (one object, no newline) to a file.
  void write(const std::string& text, const std::string& json);

 private:
  const std::string place_;
  std::mutex mutex_;
};

// Builds one JSON object.
class JsonObject {
 public:
  JsonObject& add(const std::string& key, const std::string& value);
  JsonObject& add(const std::string& key, const char* value) { return add(key, std::string(value)); }
  JsonObject& add(const std::string& key, unsigned long long value);
  // `value` is JSON already: an array or an object.
  JsonObject& addRaw(const std::string& key, const std::string& value);
  std::string text() const { return body_.empty() ? "{}" : body_ + "}"; }

 private:
  std::string body_;
};

std::string jsonString(const std::string& value);

}  // namespace softmoe::emulator
