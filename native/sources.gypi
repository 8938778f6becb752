{
  "variables": {
    "core_sources": [
      "native/base/syscalls.cc",
      "native/channel/channel_thread.cc",
      "native/channel/endpoint.cc",
      "native/channel/extent_sender.cc",
      "native/channel/listener.cc",
      "native/channel/receive_channel.cc",
      "native/channel/send_channel.cc",
      "native/engine/errqueue.cc",
      "native/engine/release_ledger.cc",
      "native/engine/sendmsg_engine.cc",
      "native/guest/dirty_bitmap.cc",
      "native/guest/dirty_tracker.cc",
      "native/guest/guest_memory.cc",
      "native/guest/hash_tracker.cc",
      "native/guest/mapping.cc",
      "native/guest/page_ops.cc",
      "native/guest/pagemap.cc",
      "native/guest/ram_state.cc",
      "native/guest/uffd_tracker.cc",
      "native/guest/vmm_tracker.cc",
      "native/wire/packet.cc"
    ],
    "binding_sources": [
      "native/binding/addon.cc",
      "native/binding/channels.cc",
      "native/binding/convert.cc",
      "native/binding/environment.cc",
      "native/binding/guest_memory.cc",
      "native/binding/ram_state.cc",
      "native/binding/wire_codec.cc"
    ]
  }
}
