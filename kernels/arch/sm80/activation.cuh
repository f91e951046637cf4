//! Activations at the end of products, in f32.

constexpr u32 kActivationMask = 7, kRelu = 1, kGeluTanh = 2, kSilu = 3, kGelu = 4;

/// Abramowitz and Stegun 7.1.26; absolute error below 2e-7.
DEVICE float erf_approx(float x) {
    const float a = fabsf(x), t = rcp_approx(1.f + 0.3275911f * a);
    float poly = 1.061405429f * t - 1.453152027f;
    poly = ((poly * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f;
    return copysignf(1.f - poly * t * exp2_approx(-1.4426950408889634f * a * a), x);
}
/// v sigmoid(slope (v + cube v^3)).
DEVICE float gate(float v, float slope, float cube) {
    return v * rcp_approx(1.f + exp2_approx(-1.4426950408889634f * slope * (v + cube * v * v * v)));
}
DEVICE float activate(float v, u32 activation) {
    switch (activation) {
    case kRelu: return fmaxf(v, 0.f);
    case kGeluTanh: return gate(v, 1.5957691216057308f, 0.044715f);
    case kSilu: return gate(v, 1.f, 0.f);
    case kGelu: return 0.5f * v * (1.f + erf_approx(v * 0.7071067811865476f));
    }
    return v;
}
