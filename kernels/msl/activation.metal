// activation.metal: what stands between a product and its output. Which one is a template value of the kernel:
// 0 none, 1 silu and 2 tanh-gelu of the gate, times up, 3 squared relu.
//
// A product that is added to something is written fma(): a compiler may fuse or not fuse `a * b + c`, and may choose
// differently for other template values, and then a row's bits would depend on how many rows run beside it.

METAL_FUNC float silu(float x) {
  return x / (1.0f + metal::precise::exp(-x));
}

METAL_FUNC float gelu_tanh(float x) {
  float inner = metal::fma(0.044715f * x, x * x, x);
  return 0.5f * x * (1.0f + metal::precise::tanh(0.7978845608028654f * inner));
}

// act(v) + addend, and for the gated ones act(v) * up + addend
template <int ACT>
METAL_FUNC float finished(float v, float up, float addend) {
  if (ACT == 0) {
    return v + addend;
  }
  if (ACT == 3) {
    float positive = metal::max(v, 0.0f);
    return metal::fma(positive, positive, addend);
  }
  return metal::fma(ACT == 1 ? silu(v) : gelu_tanh(v), up, addend);
}
