#include "journal.h"

#include <cstdio>

namespace softmoe::emulator {

void Journal::write(const std::string& text, const std::string& json) {
  if (!enabled()) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (place_ == "stderr") {
    std::fprintf(stderr, "cuda-emulator: %s\n", text.c_str());
    return;
  }
  std::FILE* file = std::fopen(place_.c_str(), "a");
  if (!file) {
    std::fprintf(stderr, "cuda-emulator: cannot write %s; %s\n", place_.c_str(), text.c_str());
    return;
  }
  const std::string line = json + "\n";
  std::fwrite(line.data(), 1, line.size(), file);
  std::fclose(file);
}

JsonObject& JsonObject::addRaw(const std::string& key, const std::string& value) {
  body_ += (body_.empty() ? "{" : ",") + jsonString(key) + ":" + value;
  return *this;
}

JsonObject& JsonObject::add(const std::string& key, const std::string& value) {
  return addRaw(key, jsonString(value));
}

JsonObject& JsonObject::add(const std::string& key, unsigned long long value) {
  return addRaw(key, std::to_string(value));
}

std::string jsonString(const std::string& value) {
  std::string quoted = "\"";
  for (const char character : value) {
    if (character == '"' || character == '\\') {
      quoted += '\\';
      quoted += character;
    } else if (static_cast<unsigned char>(character) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(character));
      quoted += escape;
    } else {
      quoted += character;
    }
  }
  return quoted + "\"";
}

}  // namespace softmoe::emulator
