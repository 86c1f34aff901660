// load_now.metal: a number that is loaded here and now, though it may be needed only later or behind a branch. CUDA has its
// own: its compiler would load the number where it is needed, and wait for what decides the branch before.
#ifndef MSL_CUDA
template <typename From>
METAL_FUNC auto load_now(From from) {
  return from[0];
}
#endif
