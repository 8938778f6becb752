{
  "variables": {
    "core_sources": [
      "native/guest/dirty_bitmap.cc",
      "native/guest/dirty_tracker.cc",
      "native/guest/guest_memory.cc",
      "native/guest/hash_tracker.cc",
      "native/guest/mapping.cc",
      "native/guest/page_ops.cc",
      "native/guest/pagemap.cc",
      "native/guest/ram_state.cc",
      "native/guest/uffd_tracker.cc",
      "native/guest/vmm_tracker.cc"
    ],
    "binding_sources": []
  }
}
