// fence.metal: what threadgroups leave in device memory for each other: an input that is written to, and what orders their accesses,
// around an atomic operation of both.
#ifndef MSL_CUDA
template <bool USED>
METAL_FUNC void device_fence() {
#if defined(__METAL_VERSION__) && __METAL_VERSION__ < 320
  static_assert(!USED, "fences between threadgroups need macOS 15");
#else
  atomic_thread_fence(mem_flags::mem_device, memory_order_seq_cst, thread_scope_device);
#endif
}

template <typename T>
METAL_FUNC device T* in_place(const device T* input) {
  return (device T*)input;
}
#endif
