// The addon's entry: what was built, for the loader's checks.
#include <napi.h>

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports.Set("version", Napi::String::New(env, SOFTMOE_VERSION));
  exports.Set("builtBy", Napi::String::New(env, SOFTMOE_BUILT_BY));
  return exports;
}

NODE_API_MODULE(softmoe, Init)
