# The install build (node-gyp). Sanitizer builds and the native tests are CMakeLists.txt's; both
# read the same list of sources.
{
  "includes": ["native/sources.gypi"],
  "targets": [
    {
      "target_name": "multifd",
      # Compression with zstd where the system's library is: "1" or "0".
      "variables": {"has_zstd%": "<!(node scripts/has-zstd.mjs)"},
      "sources": ["<@(core_sources)", "<@(payload_sources)", "<@(binding_sources)"],
      "include_dirs": ["native"],
      # The last: a worker that is terminated cannot be thrown at, which must not be fatal.
      "defines": [
        "NAPI_VERSION=9",
        "NAPI_DISABLE_CPP_EXCEPTIONS",
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
      ],
      "cflags!": ["-fno-exceptions", "-O3"],
      "cflags": ["-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror", "-fvisibility=hidden"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20", "-fno-rtti"],
      # A system include: warnings are errors in our own files only.
      "cflags_cc": ["-std=c++20", "-fno-exceptions", "-isystem", "<!(node -p \"require('path').resolve(require('node-addon-api').include_dir)\")"],
      "conditions": [["has_zstd==1", {"defines": ["MULTIFD_ZSTD"], "libraries": ["-lzstd"]}]]
    }
  ]
}
