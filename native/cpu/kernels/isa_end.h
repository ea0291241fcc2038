// Ends the region that isa.h began.
#if defined(SOFTMOE_TARGET)
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef SOFTMOE_TARGET
#undef SOFTMOE_PRAGMA
#undef SOFTMOE_EXPANDED_PRAGMA
#endif
