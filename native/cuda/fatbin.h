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

// Version of the toolkit that made them, as cuDriverGetVersion counts: 1000 * major + 10 * minor; 0 without
// nvcc.
extern const int softmoe_cuda_toolkit_version;

#ifdef __cplusplus
}
#endif
