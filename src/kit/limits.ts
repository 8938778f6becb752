// Bounds that hold everywhere. A peer's number is checked against one of these before it sizes
// anything; each says where it comes from.

/** Target page size in bytes: x86 and arm64 Linux guests (QEMU TARGET_PAGE_SIZE). */
export const PAGE_SIZE_BYTES = 4096

/** Most multifd channels: QEMU's parameter range of `multifd-channels`, 1..255. */
export const CHANNELS_MAX = 255

/** Most pages a packet may carry: QEMU's MULTIFD_PACKET_SIZE (512 KiB) over the page size. */
export const PACKET_PAGES_MAX = 128

/** Most RAM blocks in one migration: a PC guest has under 20. */
export const RAM_BLOCKS_MAX = 1024

/** Longest name on the wire: idstr and block names have a one-byte length. */
export const IDSTR_BYTES_MAX = 255

/** Longest machine name in the configuration section. */
export const MACHINE_NAME_BYTES_MAX = 1024

/** Most entries of the capability list. */
export const CAPABILITIES_MAX = 256

/** Largest device section payload that is buffered: v86's is 3 MB, QEMU's largest 20 KB. */
export const DEVICE_STATE_BYTES_MAX = 256 * 1024 * 1024

/** Longest payload of a device-state packet: 16 MiB behind the three words in front of VFIO's. */
export const DEVICE_PAYLOAD_BYTES_MAX = 16 * 1024 * 1024 + 12

/** Longest part of such a payload that is copied, in front of data that is sent from its place. */
export const DEVICE_PREFIX_BYTES_MAX = 32

/** Longest vmdescription (QEMU's is about 45 KB). */
export const VMDESC_BYTES_MAX = 16 * 1024 * 1024

/** Most device sections in one stream: a PC guest has about 30. */
export const DEVICE_SECTIONS_MAX = 4096
