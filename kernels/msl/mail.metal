// mail.metal: floats from one threadgroup to another of the same launch, through places in device memory that hold EMPTY in
// between. A sum is never EMPTY: of NaNs an addition makes the one whose sign is clear.
//
// Who takes waits, so it must be of a later threadgroup than who sends: the earlier one has begun then, and waits for nobody.
// Two launches that use the same places may not run at the same time: see workspace.py.
constexpr constant uint EMPTY = 0xffffffffu;

METAL_FUNC void send(device float* place, float value) {
  atomic_store_explicit((device atomic_uint*)place, as_type<uint>(value), memory_order_relaxed);
}

METAL_FUNC float take(device float* place) {
  device atomic_uint* at = (device atomic_uint*)place;
  uint bits = atomic_load_explicit(at, memory_order_relaxed);
  while (bits == EMPTY) {
    bits = atomic_load_explicit(at, memory_order_relaxed);
  }
  atomic_store_explicit(at, EMPTY, memory_order_relaxed);
  return as_type<float>(bits);
}
