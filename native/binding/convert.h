// Between native values and JavaScript ones. Errors cross as plain objects {code, detail, errno,
// syscall}; TypeScript (src/kit/native.ts) makes the exception. Nothing here throws.
#pragma once

#include <napi.h>

#include <string>

#include "base/result.h"

namespace multifd::binding {

Napi::Object to_js(Napi::Env env, const Error& error);

// Arguments come from our own TypeScript, which checked them; a wrong one is our mistake and gives
// a neutral value, never undefined behaviour.
double get_number(const Napi::Object& object, const char* name);
uint64_t get_uint64(const Napi::Object& object, const char* name);
std::string get_string(const Napi::Object& object, const char* name);
bool get_bool(const Napi::Object& object, const char* name);
uint64_t to_uint64(const Napi::Value& value);

}  // namespace multifd::binding
