# SOFTMOE_SANITIZE=address builds everything with AddressSanitizer and UndefinedBehaviorSanitizer, =thread with
# ThreadSanitizer; any report ends the process. SOFTMOE_ONLY_ISAS names the instruction sets to build, for less time.
softmoe_setting(SOFTMOE_SANITIZE OFF)
softmoe_setting(SOFTMOE_ONLY_ISAS "")

if(SOFTMOE_SANITIZE)
  if(SOFTMOE_SANITIZE STREQUAL "address")
    set(sanitizers address,undefined)
  elseif(SOFTMOE_SANITIZE STREQUAL "thread")
    set(sanitizers thread)
  else()
    message(FATAL_ERROR "softmoe: SOFTMOE_SANITIZE is ${SOFTMOE_SANITIZE}; wanted address, thread or OFF")
  endif()
  set(CMAKE_CXX_FLAGS_RELEASE "-O1 -g1 -DNDEBUG")
  # Loop annotations are ignored in instrumented loops, with a warning.
  set(SOFTMOE_WERROR OFF)
  set(CMAKE_C_FLAGS_RELEASE "-O1 -g1 -DNDEBUG")
  add_compile_options(-fsanitize=${sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${sanitizers})
  # The sanitizers know more than the fortified functions, which hide calls from them.
  set(SOFTMOE_HARDENING "")
  # Node preloads the sanitizer's library and brings the one C++ library whose exceptions that library follows.
  set(SOFTMOE_STATIC_RUNTIME "")
else()
  set(SOFTMOE_HARDENING -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
  set(SOFTMOE_STATIC_RUNTIME -static-libstdc++ -static-libgcc)
endif()
