#pragma once
// The CUDA kernels embedded in this binary: one fatbin per file of native/cuda/kernels. The table ends with
// an entry whose name is null; a build without nvcc has only that entry.

#ifdef __cplusplus
extern "C" {
#endif

struct SoftmoeFatbin {
  const char* name;            // the .cu file's name without its suffix
  const unsigned char* begin;  // first byte of the fatbin, 16-byte aligned
  const unsigned char* end;    // one past its last byte
};

extern const struct SoftmoeFatbin softmoe_fatbins[];

#ifdef __cplusplus
}
#endif
