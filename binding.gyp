# The CPU backend alone, by node-gyp: for machines without CMake (needs python, make and a C++ compiler).
{
  "variables": {
    "host_sources": ["<!@(node scripts/native-sources.cjs host)"],
    "kernel_sources": ["<!@(node scripts/native-sources.cjs kernels)"]
  },
  "target_defaults": {
    "include_dirs": ["native"],
    "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17", "-std=gnu++20"],
    "cflags": [
      "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter",
      "-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"
    ],
    "cflags_cc": [
      "-std=c++17", "-O3", "-fvisibility-inlines-hidden",
      "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"
    ],
    "xcode_settings": {
      "GCC_ENABLE_CPP_EXCEPTIONS": "YES", "GCC_ENABLE_CPP_RTTI": "YES",
      "CLANG_CXX_LANGUAGE_STANDARD": "c++17", "MACOSX_DEPLOYMENT_TARGET": "11.0",
      "GCC_SYMBOLS_PRIVATE_EXTERN": "YES",
      "OTHER_CPLUSPLUSFLAGS": ["-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
    },
    "conditions": [
      ["target_arch=='x64'", {
        "cflags": ["-march=x86-64-v2"],
        "xcode_settings": {"OTHER_CFLAGS": ["-march=x86-64-v2"]},
        "defines": [
          "SOFTMOE_HAVE_ISA_SSE4=1", "SOFTMOE_HAVE_ISA_AVX2=1", "SOFTMOE_HAVE_ISA_AVX512=1",
          "SOFTMOE_HAVE_ISA_AVX512BF16=1", "SOFTMOE_HAVE_ISA_AMX=1"
        ]
      }],
      ["target_arch=='arm64'", {"defines": ["SOFTMOE_HAVE_ISA_NEON=1"]}]
    ]
  },
  "targets": [
    {
      "target_name": "softmoe",
      "sources": ["<@(host_sources)", "native/cuda/fatbin.c"],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": [
        "NAPI_VERSION=8", "NODE_ADDON_API_CPP_EXCEPTIONS", "NODE_ADDON_API_REQUIRE_BASIC_FINALIZERS",
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
        "SOFTMOE_VERSION=\"<!(node -p \"require('./package.json').version\")\"", "SOFTMOE_BUILT_BY=\"node-gyp\""
      ],
      "conditions": [
        ["OS=='linux'", {
          "libraries": ["-ldl", "-lpthread"],
          "ldflags": [
            "-static-libstdc++", "-static-libgcc",
            "-Wl,--exclude-libs,ALL", "-Wl,--gc-sections", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack"
          ]
        }],
        ["target_arch=='x64'", {
          "dependencies": ["kernels_sse4", "kernels_avx2", "kernels_avx512", "kernels_avx512bf16", "kernels_amx"]
        }],
        ["target_arch=='arm64'", {"dependencies": ["kernels_neon"]}]
      ]
    }
  ],
  "conditions": [
    ["target_arch=='x64'", {
      "targets": [
        {"target_name": "kernels_sse4", "type": "static_library", "sources": ["<@(kernel_sources)"],
         "defines": ["SOFTMOE_ISA=sse4", "SOFTMOE_ISA_SSE4=1"]},
        {"target_name": "kernels_avx2", "type": "static_library", "sources": ["<@(kernel_sources)"],
         "defines": ["SOFTMOE_ISA=avx2", "SOFTMOE_ISA_AVX2=1"]},
        {"target_name": "kernels_avx512", "type": "static_library", "sources": ["<@(kernel_sources)"],
         "defines": ["SOFTMOE_ISA=avx512", "SOFTMOE_ISA_AVX512=1"]},
        {"target_name": "kernels_avx512bf16", "type": "static_library", "sources": ["<@(kernel_sources)"],
         "defines": ["SOFTMOE_ISA=avx512bf16", "SOFTMOE_ISA_AVX512BF16=1"]},
        {"target_name": "kernels_amx", "type": "static_library", "sources": ["<@(kernel_sources)"],
         "defines": ["SOFTMOE_ISA=amx", "SOFTMOE_ISA_AMX=1"]}
      ]
    }],
    ["target_arch=='arm64'", {
      "targets": [
        {"target_name": "kernels_neon", "type": "static_library", "sources": ["<@(kernel_sources)"],
         "defines": ["SOFTMOE_ISA=neon", "SOFTMOE_ISA_NEON=1"]}
      ]
    }]
  ]
}
