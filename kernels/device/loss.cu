//! The negative log-likelihood of targets: logs of probabilities [batch][classes][inner], targets [batch][inner].

struct LossParams {
    u32 targets, classes, inner;
    u32 is_wide, has_ignored;
    i64 ignored; // a target that counts nothing
};

// A thread a target: its loss and its weight, 0 both where it is ignored or no class.
extern "C" __global__ void __launch_bounds__(256)
    loss_each(float *losses, float *weights, const float *logs, const void *targets, const float *class_weights,
              const __grid_constant__ LossParams p) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.targets) return;
    i64 target = p.is_wide ? ((const i64 *)targets)[at] : (i64)((const int *)targets)[at];
    bool counts = target >= 0 && target < p.classes && !(p.has_ignored && target == p.ignored);
    float weight = !counts ? 0.0f : class_weights ? class_weights[target] : 1.0f;
    losses[at] = counts ? -logs[((i64)(at / p.inner) * p.classes + target) * p.inner + at % p.inner] * weight : 0.0f;
    if (weights) weights[at] = weight;
}

// One block: the sum of all losses, divided by that of the weights for the mean.
extern "C" __global__ void __launch_bounds__(256)
    loss_total(float *to, const float *losses, const float *weights, u32 count, u32 is_mean) {
    begin_kernel();
    __shared__ float space[256 / WAVE];
    float total = 0.0f, whole = 0.0f;
    for (u32 i = threadIdx.x; i < count; i += 256) {
        total += losses[i];
        if (is_mean) whole += weights[i];
    }
    total = over_row<256>(total, space, Added());
    __syncthreads();
    if (is_mean) whole = over_row<256>(whole, space, Added());
    if (threadIdx.x == 0) to[0] = is_mean ? total / whole : total;
}
