# Compiles each native/cuda/kernels/*.cu to one fatbin and lists them for native/cuda/fatbin.c, which embeds them.
# Nothing links to CUDA. A *.sm90a.cu file holds instructions of sm_90a alone and is compiled for nothing else.
#
# Settings, by -D or by an environment variable of the same name:
#   SOFTMOE_CUDA           AUTO (if nvcc is found), ON, OFF
#   SOFTMOE_CUDA_ARCHS     machine code is made for these compute capabilities
#   SOFTMOE_CUDA_LINEINFO  ON keeps source lines in the kernels
softmoe_setting(SOFTMOE_CUDA AUTO)
softmoe_setting(SOFTMOE_CUDA_ARCHS "80;86;89;90;100;120")
softmoe_setting(SOFTMOE_CUDA_LINEINFO OFF)
string(REGEX REPLACE "[, ]+" ";" SOFTMOE_CUDA_ARCHS "${SOFTMOE_CUDA_ARCHS}")

file(GLOB cuda_sources CONFIGURE_DEPENDS native/cuda/kernels/*.cu)

set(nvcc "")
if(SOFTMOE_CUDA STREQUAL "OFF")
  message(STATUS "softmoe: SOFTMOE_CUDA=OFF, building the CPU backend only")
else()
  find_program(SOFTMOE_NVCC nvcc HINTS ENV CUDA_PATH ENV CUDA_HOME PATH_SUFFIXES bin
    PATHS /usr/local/cuda/bin /opt/cuda/bin)
  if(DEFINED ENV{CUDACXX})
    set(nvcc "$ENV{CUDACXX}")
  elseif(SOFTMOE_NVCC)
    set(nvcc "${SOFTMOE_NVCC}")
  endif()
  if(nvcc)
    execute_process(COMMAND ${nvcc} --list-gpu-arch OUTPUT_VARIABLE known_archs RESULT_VARIABLE status ERROR_QUIET)
    if(NOT status EQUAL 0)
      message(WARNING "softmoe: ${nvcc} does not run, so it is not used")
      set(nvcc "")
    endif()
  endif()
  if(NOT nvcc AND SOFTMOE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "softmoe: SOFTMOE_CUDA=ON, but no nvcc was found: set CUDACXX or CUDA_PATH, or put it on PATH")
  elseif(NOT nvcc)
    message(WARNING "softmoe: no nvcc found. Building the CPU backend ONLY: this build cannot use a GPU. "
      "Install the CUDA toolkit 12.8 or newer (or set CUDA_PATH) and build again to add the GPU backend.")
  endif()
endif()

set(toolkit_version 0)
if(nvcc)
  execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE nvcc_version)
  if(nvcc_version MATCHES "release ([0-9]+)\\.([0-9]+)")
    math(EXPR toolkit_version "${CMAKE_MATCH_1} * 1000 + ${CMAKE_MATCH_2} * 10")
  endif()
endif()

set(fatbin_list "")
set(fatbin_files "")
if(nvcc AND cuda_sources)
  # Machine code for 80, 86, 89 comes from the compute_80 PTX that is also embedded; 90 and newer from compute_90.
  set(codes_80 "")
  set(codes_90 "")
  set(used_archs "")
  foreach(arch IN LISTS SOFTMOE_CUDA_ARCHS)
    if(known_archs MATCHES "compute_${arch}[\r\n]")
      list(APPEND used_archs ${arch})
      if(arch LESS 90)
        string(APPEND codes_80 "sm_${arch},")
      else()
        string(APPEND codes_90 "sm_${arch},")
      endif()
    else()
      message(STATUS "softmoe: this nvcc does not know sm_${arch}; devices of that kind use the PTX")
    endif()
  endforeach()
  set(gencode -gencode "arch=compute_80,code=[${codes_80}compute_80]")
  if(codes_90)
    string(REGEX REPLACE ",$" "" codes_90 "${codes_90}")
    list(APPEND gencode -gencode "arch=compute_90,code=[${codes_90}]")
  endif()
  set(gencode_sm90a -gencode "arch=compute_90a,code=[sm_90a,compute_90a]")

  foreach(source IN LISTS cuda_sources)
    get_filename_component(name ${source} NAME)
    string(REGEX REPLACE "\\.cu$" "" name ${name})
    string(MAKE_C_IDENTIFIER ${name} symbol)
    set(fatbin ${CMAKE_CURRENT_BINARY_DIR}/fatbins/${name}.fatbin)
    if(name MATCHES "\\.sm90a$")
      set(targets ${gencode_sm90a})
    else()
      set(targets ${gencode})
    endif()
    # Uncompressed, so that the embedded PTX can be read and run as it is by tools that are not the driver.
    add_custom_command(OUTPUT ${fatbin}
      COMMAND ${nvcc} -fatbin -O3 -std=c++17 --compress-mode none -allow-unsupported-compiler
              $<$<BOOL:${SOFTMOE_CUDA_LINEINFO}>:-lineinfo> $<$<BOOL:${SOFTMOE_WERROR}>:-Werror=all-warnings>
              -I${CMAKE_CURRENT_SOURCE_DIR}/native ${targets}
              -MD -MF ${fatbin}.d -MT ${fatbin} ${source} -o ${fatbin}
      DEPENDS ${source} DEPFILE ${fatbin}.d
      COMMENT "nvcc ${name}.cu" VERBATIM COMMAND_EXPAND_LISTS)
    list(APPEND fatbin_files ${fatbin})
    string(APPEND fatbin_list " \\\n  X(${symbol}, \"${name}\", \"${fatbin}\")")
  endforeach()
  file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/fatbins)
  message(STATUS "softmoe: CUDA kernels by ${nvcc} for sm ${used_archs} and PTX of compute_80")
elseif(nvcc)
  message(STATUS "softmoe: no CUDA kernels in native/cuda/kernels")
endif()

# A target of their own, so that they need not wait for the CPU kernels.
add_custom_target(softmoe_fatbins DEPENDS ${fatbin_files})
add_dependencies(softmoe softmoe_fatbins)

file(CONFIGURE OUTPUT fatbins/fatbin_list.h @ONLY
  CONTENT "#define SOFTMOE_CUDA_TOOLKIT_VERSION @toolkit_version@\n#define SOFTMOE_FATBIN_LIST(X)@fatbin_list@\n")
set_source_files_properties(native/cuda/fatbin.c PROPERTIES
  OBJECT_DEPENDS "${fatbin_files}"
  COMPILE_DEFINITIONS "SOFTMOE_FATBIN_LIST_FILE=\"${CMAKE_CURRENT_BINARY_DIR}/fatbins/fatbin_list.h\"")
