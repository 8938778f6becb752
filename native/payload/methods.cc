#include "payload/methods.h"

#include <array>

namespace multifd {

// Each in a file of its own: zlib_codec.cc, zstd_codec.cc.
PayloadMethod zlib_method();
PayloadMethod zstd_method();

std::span<const PayloadMethod> payload_methods() {
  static const std::array kMethods = {
      uncompressed_method(),
      zlib_method(),
      zstd_method(),
  };
  return kMethods;
}

}  // namespace multifd
