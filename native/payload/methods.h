// The table of compression methods. Beside the contract, because the methods need libraries (Node's
// zlib, the system's zstd) that what is built without Node does not have.
#pragma once

#include <span>

#include "payload/payload.h"

namespace multifd {

// In QEMU's order: none first.
std::span<const PayloadMethod> payload_methods();

}  // namespace multifd
