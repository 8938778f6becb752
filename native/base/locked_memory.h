// Whether RLIMIT_MEMLOCK binds this process, which is what a refusal to pin pages may mean.
#pragma once

namespace multifd {

// False with CAP_IPC_LOCK (capabilities(7)) or an unlimited RLIMIT_MEMLOCK (getrlimit(2)).
bool is_locked_memory_limited();

}  // namespace multifd
