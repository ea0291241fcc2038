#pragma once

#include <napi.h>

namespace softmoe::addon {

// Adds every operation to `exports`, under the names that lib/native.ts declares.
void export_operations(Napi::Env env, Napi::Object exports);

}  // namespace softmoe::addon
