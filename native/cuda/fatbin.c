// Embeds the fatbins as read-only data by .incbin, which takes no time whatever their size.
#include "cuda/fatbin.h"

#ifdef SOFTMOE_FATBIN_LIST_FILE
#include SOFTMOE_FATBIN_LIST_FILE
#else
#define SOFTMOE_FATBIN_LIST(X)
#define SOFTMOE_CUDA_TOOLKIT_VERSION 0
#endif

#ifdef __APPLE__
#define SECTION ".const_data\n"
#define LABEL(name) "_" name
#define HIDE(name) ".private_extern " LABEL(name) "\n"
#define END_SECTION ".text\n"
#else
#define SECTION ".section .rodata, \"a\"\n"
#define LABEL(name) name
#define HIDE(name) ".hidden " LABEL(name) "\n"
#define END_SECTION ".previous\n"
#endif
#define DEFINE(name) ".globl " LABEL(name) "\n" HIDE(name) LABEL(name) ":\n"

#define EMBED(symbol, name, file)                                                                   \
  __asm__(SECTION ".balign 16\n" DEFINE("softmoe_fatbin_" #symbol) ".incbin \"" file "\"\n" DEFINE( \
      "softmoe_fatbin_" #symbol "_end") ".byte 0\n" END_SECTION);                                   \
  extern const unsigned char softmoe_fatbin_##symbol[], softmoe_fatbin_##symbol##_end[];
SOFTMOE_FATBIN_LIST(EMBED)

#define ENTRY(symbol, name, file) {name, softmoe_fatbin_##symbol, softmoe_fatbin_##symbol##_end},
const struct SoftmoeFatbin softmoe_fatbins[] = {SOFTMOE_FATBIN_LIST(ENTRY){0, 0, 0}};

const int softmoe_cuda_toolkit_version = SOFTMOE_CUDA_TOOLKIT_VERSION;
