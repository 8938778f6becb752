// Kernel constants that Debian 12's headers lack, each with the uapi header it comes from. The only
// place for such constants; features are probed at run time, never inferred from a version.
#pragma once

#include <linux/errqueue.h>
#include <sys/socket.h>

#include <cstdint>

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60  // asm-generic/socket.h
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000  // linux/socket.h
#endif
#ifndef SO_EE_ORIGIN_ZEROCOPY
#define SO_EE_ORIGIN_ZEROCOPY 5  // linux/errqueue.h
#endif
#ifndef SO_EE_CODE_ZEROCOPY_COPIED
#define SO_EE_CODE_ZEROCOPY_COPIED 1  // linux/errqueue.h
#endif
