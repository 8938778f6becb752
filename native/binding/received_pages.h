// Pages of the main channel on their way into guest memory, and which parts of a stored file hold
// data: what receiving a snapshot needs besides the channels.
#pragma once

#include <napi.h>

namespace multifd::binding {

// fileDataRanges(path, sizeBytes): Promise<Float64Array | error>, pairs of first byte and length.
Napi::Value file_data_ranges(const Napi::CallbackInfo& info);

}  // namespace multifd::binding
