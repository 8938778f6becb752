// The options `compression` and `compressionLevel` of a channel, as codecs.
#pragma once

#include <napi.h>

#include <memory>

#include "payload/payload.h"

namespace multifd::binding {

// Null: uncompressed, which is what no `compression` means.
Result<std::unique_ptr<PayloadEncoder>> to_encoder(const Napi::Object& options);
Result<std::unique_ptr<PayloadDecoder>> to_decoder(const Napi::Object& options);

// compressionMethods(): every method, its levels, and why it is not to be had, if so.
Napi::Value compression_methods(const Napi::CallbackInfo& info);

}  // namespace multifd::binding
