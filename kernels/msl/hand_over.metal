// hand_over.metal: some words out of an array, two and two, for the host to read: see resident.py.
//
// words [N] -> a, b, c, d [2]: those from FROM on, and the last one again where there are no more.

// ---- body
  uint i = thread_index_in_threadgroup;
  if (i < 8u) {
    auto word = words[metal::min(uint(FROM) + i, uint(N - 1))];
    if (i < 2u) {
      a[i] = word;
    } else if (i < 4u) {
      b[i - 2u] = word;
    } else if (i < 6u) {
      c[i - 4u] = word;
    } else {
      d[i - 6u] = word;
    }
  }
