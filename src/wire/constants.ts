// The numbers of QEMU's migration wire format, in QEMU's spelling so that a search finds them in
// both trees. Each group names the QEMU source file that defines it. Nothing here belongs to us:
// what only our own ends say to each other is in dialect.ts.

// --- migration/migration.h, migration/savevm.h: the main stream
// -----------------------------------

/** "QEVM", the first four bytes of the main channel. */
export const QEMU_VM_FILE_MAGIC = 0x5145564d
/** The only version in use since 2010. */
export const QEMU_VM_FILE_VERSION = 3

export const QEMU_VM_EOF = 0x00
export const QEMU_VM_SECTION_START = 0x01
export const QEMU_VM_SECTION_PART = 0x02
export const QEMU_VM_SECTION_END = 0x03
export const QEMU_VM_SECTION_FULL = 0x04
export const QEMU_VM_SUBSECTION = 0x05
export const QEMU_VM_VMDESCRIPTION = 0x06
export const QEMU_VM_CONFIGURATION = 0x07
export const QEMU_VM_COMMAND = 0x08
export const QEMU_VM_SECTION_FOOTER = 0x7e

// --- migration/savevm.c: commands
// -----------------------------------------------------------------

export const MIG_CMD_OPEN_RETURN_PATH = 1
export const MIG_CMD_PING = 2
export const MIG_CMD_POSTCOPY_ADVISE = 3
export const MIG_CMD_POSTCOPY_LISTEN = 4
export const MIG_CMD_POSTCOPY_RUN = 5
export const MIG_CMD_POSTCOPY_RAM_DISCARD = 6
export const MIG_CMD_PACKAGED = 7
export const MIG_CMD_ENABLE_COLO = 8
export const MIG_CMD_POSTCOPY_RESUME = 9
export const MIG_CMD_RECV_BITMAP = 10
/** QEMU 10.0 and newer; anything older ends on it. */
export const MIG_CMD_SWITCHOVER_START = 11

// --- migration/migration.h: return path
// -----------------------------------------------------------

export const MIG_RP_MSG_SHUT = 1
export const MIG_RP_MSG_PONG = 2
export const MIG_RP_MSG_REQ_PAGES_ID = 3
export const MIG_RP_MSG_REQ_PAGES = 4
export const MIG_RP_MSG_RECV_BITMAP = 5
export const MIG_RP_MSG_RESUME_ACK = 6
/** QEMU 8.1 and newer, with the capability `switchover-ack`. */
export const MIG_RP_MSG_SWITCHOVER_ACK = 7

// --- migration/ram.c: words of the RAM section
// ----------------------------------------------------

export const RAM_SAVE_FLAG_ZERO = 0x002
export const RAM_SAVE_FLAG_MEM_SIZE = 0x004
export const RAM_SAVE_FLAG_PAGE = 0x008
export const RAM_SAVE_FLAG_EOS = 0x010
/** Same RAM block as the last one named, so no name follows. */
export const RAM_SAVE_FLAG_CONTINUE = 0x020
export const RAM_SAVE_FLAG_XBZRLE = 0x040
export const RAM_SAVE_FLAG_HOOK = 0x080
export const RAM_SAVE_FLAG_COMPRESS_PAGE = 0x100
/** QEMU 8.1 and newer, machine types 8.1 and newer. */
export const RAM_SAVE_FLAG_MULTIFD_FLUSH = 0x200

/** `idstr` of the RAM section, its only instance, and its version (migration/ram.c). */
export const RAM_IDSTR = 'ram'
export const RAM_INSTANCE_ID = 0
export const RAM_VERSION_ID = 4

// --- migration/multifd.h: multifd channels
// --------------------------------------------------------

export const MULTIFD_MAGIC = 0x11223344
export const MULTIFD_VERSION = 1
export const MULTIFD_FLAG_SYNC = 0x01
/** Bits that name the compression method; 0 is none. */
export const MULTIFD_FLAG_COMPRESSION_MASK = 0x3e
export const MULTIFD_FLAG_ZLIB = 0x02
export const MULTIFD_FLAG_ZSTD = 0x04
export const MULTIFD_FLAG_QPL = 0x08
export const MULTIFD_FLAG_UADK = 0x10
export const MULTIFD_FLAG_QATZIP = 0x20
/** Another header layout behind the flags (QEMU 10.0 and newer). */
export const MULTIFD_FLAG_DEVICE_STATE = 0x40

/** Size of MultiFDPacketDeviceState_t, and of its name, a NUL included. */
export const DEVICE_PACKET_HEADER_BYTES = 276
export const DEVICE_PACKET_NAME_BYTES = 256

/** Size of MultiFDInit_t. */
export const INITIAL_PACKET_BYTES = 64
/** Size of MultiFDPacket_t without its offsets. */
export const RAM_PACKET_FIXED_BYTES = 320
/** Room for the RAM block's name in a packet, its NUL included. */
export const RAM_PACKET_BLOCK_NAME_BYTES = 256

// --- subsections of the configuration section (migration/savevm.c)
// --------------------------------

export const CONFIGURATION_TARGET_PAGE_BITS = 'configuration/target-page-bits'
export const CONFIGURATION_CAPABILITIES = 'configuration/capabilities'
export const CONFIGURATION_UUID = 'configuration/uuid'
