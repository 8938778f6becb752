// What the options of every channel have in common: where to connect or listen, and the cells for
// its counters.
#pragma once

#include <napi.h>

#include "channel/counters.h"
#include "channel/endpoint.h"

namespace multifd::binding {

// {path} or {host, port}.
Result<Endpoint> to_endpoint(const Napi::Object& options);
// {counters}: at least `count` cells, in a Float64Array that the new object keeps alive; else null.
CounterCell* counter_cells(const Napi::Object& options, size_t count);

}  // namespace multifd::binding
