# SOFTMOE_ISAS: the instruction sets that this compiler can target; SOFTMOE_BASE_FLAGS: the baseline of all other
# code; SOFTMOE_ISA_DEFINITIONS: SOFTMOE_HAVE_ISA_<SET>=1 for each set, so that the dispatcher knows what was built.
set(SOFTMOE_ISAS "")
set(SOFTMOE_BASE_FLAGS "")

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND NOT CMAKE_OSX_ARCHITECTURES MATCHES "arm64")
  check_cxx_compiler_flag(-march=x86-64-v2 SOFTMOE_COMPILER_KNOWS_X86_64_V2)
  if(SOFTMOE_COMPILER_KNOWS_X86_64_V2)
    set(SOFTMOE_BASE_FLAGS -march=x86-64-v2)
  else()
    set(SOFTMOE_BASE_FLAGS -msse4.2 -mpopcnt -mcx16)
  endif()
  set(SOFTMOE_ISAS sse4)
  # Each newer set is built if the compiler accepts its target attribute.
  foreach(isa_and_target
      "avx2=avx2,fma,f16c,bmi,bmi2"
      "avx512=avx512f,avx512bw,avx512dq,avx512vl"
      "avx512bf16=avx512f,avx512bf16,avx512vnni"
      "amx=amx-tile,amx-bf16,amx-int8")
    string(REGEX MATCH "^([^=]+)=(.*)$" matched "${isa_and_target}")
    set(isa ${CMAKE_MATCH_1})
    check_cxx_source_compiles(
      "__attribute__((target(\"${CMAKE_MATCH_2}\"))) int probe() { return 0; }\nint main() { return probe(); }"
      SOFTMOE_COMPILER_TARGETS_${isa} FAIL_REGEX "warning")
    if(SOFTMOE_COMPILER_TARGETS_${isa})
      list(APPEND SOFTMOE_ISAS ${isa})
    endif()
  endforeach()
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$" OR CMAKE_OSX_ARCHITECTURES MATCHES "arm64")
  set(SOFTMOE_ISAS neon)
else()
  message(FATAL_ERROR "softmoe: no CPU kernels for ${CMAKE_SYSTEM_PROCESSOR}; supported are x86-64 and arm64")
endif()

if(SOFTMOE_ONLY_ISAS)
  string(REGEX REPLACE "[, ]+" ";" SOFTMOE_ISAS "${SOFTMOE_ONLY_ISAS}")
endif()
set(SOFTMOE_ISA_DEFINITIONS "")
foreach(isa IN LISTS SOFTMOE_ISAS)
  string(TOUPPER ${isa} isa_upper)
  list(APPEND SOFTMOE_ISA_DEFINITIONS SOFTMOE_HAVE_ISA_${isa_upper}=1)
endforeach()
message(STATUS "softmoe: CPU kernels for ${SOFTMOE_ISAS}")
