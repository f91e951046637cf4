//! Recurrent layers, a launch a step: the products of the hidden state, and the cells.
//!
//! The inputs' products with their weights come from a matrix product over all steps at once. A wave computes all gates
//! of one unit for up to BATCH_TILE sequences: its lanes share the dot products, then lane b ends sequence b. Hidden and
//! cell states are f32 between steps; two hidden states take turns, because every unit reads all of the one before.

#define BATCH_TILE 4

struct RecurrentParams {
    u32 batch, hidden, directions, steps;
    // Distances in elements: of steps and sequences in the inputs' products and the results, of directions and sequences
    // in the states that come in and go out, of directions in the results.
    u32 gates_step, gates_sequence, y_step, y_direction, y_sequence, state_direction, state_sequence;
    u32 reverse;    // bit d: direction d runs backwards
    u32 is_coupled; // LSTM: the forget gate is one minus the input gate
    float clip;     // bounds the gates where positive
    u32 activation[6];
    float alpha[6], beta[6];
};

__device__ __forceinline__ float gate(float x, u32 activation, float alpha, float beta) {
    switch (activation) {
    case GATE_SIGMOID: return 1.0f / (1.0f + expf(-x));
    case GATE_TANH: return tanhf(x);
    case GATE_RELU: return x > 0.0f || x != x ? x : 0.0f;
    case GATE_AFFINE: return alpha * x + beta;
    case GATE_LEAKY_RELU: return x < 0.0f ? alpha * x : x;
    case GATE_THRESHOLDED_RELU: return x > alpha ? x : 0.0f;
    case GATE_SCALED_TANH: return alpha * tanhf(beta * x);
    case GATE_HARD_SIGMOID: {
        float v = alpha * x + beta;
        return v < 0.0f ? 0.0f : v > 1.0f ? 1.0f : v;
    }
    case GATE_ELU: return x < 0.0f ? alpha * expm1f(x) : x;
    case GATE_SOFTSIGN: return x / (1.0f + fabsf(x));
    case GATE_SOFTPLUS: return x > 0.0f ? x + log1pf(expf(-x)) : log1pf(expf(x));
    }
    return x;
}

struct Gate {
    const RecurrentParams &p;
    u32 direction;
    __device__ __forceinline__ float operator()(u32 function, float x) const {
        u32 at = direction * 3 + function;
        if (p.clip > 0.0f) x = x < -p.clip ? -p.clip : x > p.clip ? p.clip : x;
        return gate(x, p.activation[at], p.alpha[at], p.beta[at]);
    }
};

// Where unit `unit` of sequence `b` stands at `step`: the step of the inputs that it reads, none past the sequence's end.
struct Place {
    u32 input_step;
    bool is_active;
};

__device__ __forceinline__ Place place(const RecurrentParams &p, const int *lengths, u32 direction, u32 b, u32 step) {
    u32 length = lengths ? (u32)lengths[b] : p.steps;
    bool reversed = p.reverse >> direction & 1;
    Place at;
    at.is_active = step < length;
    at.input_step = reversed && at.is_active ? length - 1 - step : step;
    return at;
}

// The dot products of COUNT gates from `first` on with the states `from` of the sequences from `b0` on. `sums` of lane b
// (below BATCH_TILE) are those of sequence b0 + b.
template <int COUNT, class S>
__device__ __forceinline__ void gate_products(float (&sums)[COUNT], const S *weights, const float *from,
                                              const RecurrentParams &p, u32 unit, u32 b0) {
    float partial[COUNT][BATCH_TILE];
    _Pragma("unroll") for (int g = 0; g < COUNT; g++)
        _Pragma("unroll") for (int b = 0; b < BATCH_TILE; b++) partial[g][b] = 0.0f;
    u32 lane = threadIdx.x % WAVE;
    _Pragma("unroll 2") for (u32 k = lane; k < p.hidden; k += WAVE) {
        float state[BATCH_TILE];
        _Pragma("unroll") for (int b = 0; b < BATCH_TILE; b++)
            state[b] = b0 + b < p.batch ? from[(i64)(b0 + b) * p.hidden + k] : 0.0f;
        _Pragma("unroll") for (int g = 0; g < COUNT; g++) {
            float w = widen<float>(weights[((i64)g * p.hidden + unit) * p.hidden + k]);
            _Pragma("unroll") for (int b = 0; b < BATCH_TILE; b++) partial[g][b] += w * state[b];
        }
    }
    _Pragma("unroll") for (int g = 0; g < COUNT; g++) {
        sums[g] = 0.0f;
        _Pragma("unroll") for (int b = 0; b < BATCH_TILE; b++) {
            float v = partial[g][b];
            _Pragma("unroll") for (int mask = WAVE / 2; mask > 0; mask >>= 1) v += wave_xor_f32(v, mask);
            if (lane == b) sums[g] = v;
        }
    }
}

// What a unit is: the launch's grid is units by tiles of the batch by directions, a wave a unit.
struct Unit {
    u32 unit, b0, b, direction;
    bool exists, ends; // whether the wave has work, and whether this lane ends a sequence
    __device__ __forceinline__ Unit(const RecurrentParams &p) {
        u32 lane = threadIdx.x % WAVE;
        unit = blockIdx.x * (blockDim.x / WAVE) + threadIdx.x / WAVE;
        b0 = blockIdx.y * BATCH_TILE;
        b = b0 + lane;
        direction = blockIdx.z;
        exists = unit < p.hidden;
        ends = exists && lane < BATCH_TILE && b < p.batch;
    }
    __device__ __forceinline__ i64 state(const RecurrentParams &p) const {
        return ((i64)direction * p.batch + b) * p.hidden + unit;
    }
};

template <class S>
__device__ __forceinline__ void put_result(S *y, const RecurrentParams &p, const Unit &u, u32 step, float value) {
    if (!y) return;
    i64 at = (i64)step * p.y_step + (i64)u.direction * p.y_direction + (i64)u.b * p.y_sequence + u.unit;
    y[at] = Narrow<S>::from(value);
}

// The hidden (and cell) states before the first step.
template <class S>
__device__ __forceinline__ void recurrent_begin(float *hidden, float *cell, const S *hidden_in, const S *cell_in,
                                                const RecurrentParams &p) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.directions * p.batch * p.hidden) return;
    u32 unit = at % p.hidden, b = at / p.hidden % p.batch, direction = at / p.hidden / p.batch;
    i64 from = (i64)direction * p.state_direction + (i64)b * p.state_sequence + unit;
    hidden[at] = hidden_in ? widen<float>(hidden_in[from]) : 0.0f;
    if (cell) cell[at] = cell_in ? widen<float>(cell_in[from]) : 0.0f;
}

// The states after the last step, to who asks for them.
template <class S>
__device__ __forceinline__ void recurrent_end(S *hidden_out, S *cell_out, const float *hidden, const float *cell,
                                              const RecurrentParams &p) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.directions * p.batch * p.hidden) return;
    u32 unit = at % p.hidden, b = at / p.hidden % p.batch, direction = at / p.hidden / p.batch;
    i64 to = (i64)direction * p.state_direction + (i64)b * p.state_sequence + unit;
    if (hidden_out) hidden_out[to] = Narrow<S>::from(hidden[at]);
    if (cell_out) cell_out[to] = Narrow<S>::from(cell[at]);
}

// bias: [directions, 2, GATES, hidden], of the inputs and of the hidden state.
template <int GATES, class S> struct Bias {
    const S *bias;
    u32 hidden, unit;
    __device__ __forceinline__ Bias(const S *all, const RecurrentParams &p, const Unit &u)
        : bias(all ? all + (i64)u.direction * 2 * GATES * p.hidden : all), hidden(p.hidden), unit(u.unit) {}
    __device__ __forceinline__ float input(u32 g) const {
        return bias ? widen<float>(bias[g * hidden + unit]) : 0.0f;
    }
    __device__ __forceinline__ float state(u32 g) const {
        return bias ? widen<float>(bias[(GATES + g) * hidden + unit]) : 0.0f;
    }
    __device__ __forceinline__ float both(u32 g) const { return input(g) + state(g); }
};

// Gates: input, output, forget, cell.
template <class S>
__device__ __forceinline__ void lstm_step(S *y, float *to, float *cell, const float *from, const S *gates,
                                          const S *weights, const S *bias_in, const S *peepholes, const int *lengths,
                                          const RecurrentParams &p, u32 step) {
    begin_kernel();
    Unit u(p);
    if (!u.exists) return;
    i64 side = (i64)u.direction * p.hidden;
    float sums[4];
    gate_products(sums, weights + side * 4 * p.hidden, from + side * p.batch, p, u.unit, u.b0);
    if (!u.ends) return;
    Place at = place(p, lengths, u.direction, u.b, step);
    i64 state = u.state(p);
    if (!at.is_active) {
        to[state] = from[state];
        return put_result(y, p, u, step, 0.0f);
    }
    const S *x = gates + (i64)at.input_step * p.gates_step + (i64)u.b * p.gates_sequence + side * 4 + u.unit;
    Bias<4, S> bias(bias_in, p, u);
    _Pragma("unroll") for (int g = 0; g < 4; g++) sums[g] += widen<float>(x[g * p.hidden]) + bias.both(g);
    const S *holes = peepholes ? peepholes + side * 3 + u.unit : peepholes;
    Gate function = {p, u.direction};
    float before = cell[state];
    float input = function(0, sums[0] + (holes ? widen<float>(holes[0]) * before : 0.0f));
    float forget = function(0, sums[2] + (holes ? widen<float>(holes[2 * p.hidden]) * before : 0.0f));
    if (p.is_coupled) forget = 1.0f - input;
    float now = forget * before + input * function(1, sums[3]);
    float output = function(0, sums[1] + (holes ? widen<float>(holes[p.hidden]) * now : 0.0f));
    u32 last = u.direction * 3 + 2;
    float hidden = output * gate(now, p.activation[last], p.alpha[last], p.beta[last]);
    cell[state] = now;
    to[state] = hidden;
    put_result(y, p, u, at.input_step, hidden);
}

// Gates: update, reset, hidden. PHASE 0 computes all of a step. Where the reset gate scales the state before its product,
// phase 1 computes the first two gates and the scaled state, and phase 2 the rest from them.
template <int PHASE, class S>
__device__ __forceinline__ void gru_step(S *y, float *to, float *update, float *scaled, const float *from,
                                         const S *gates, const S *weights, const S *bias_in, const int *lengths,
                                         const RecurrentParams &p, u32 step) {
    begin_kernel();
    Unit u(p);
    if (!u.exists) return;
    i64 side = (i64)u.direction * p.hidden;
    constexpr int FIRST = PHASE == 2 ? 2 : 0, COUNT = PHASE == 0 ? 3 : PHASE == 1 ? 2 : 1;
    float sums[COUNT];
    const S *rows = weights + (side * 3 + FIRST * p.hidden) * p.hidden;
    gate_products(sums, rows, (PHASE == 2 ? scaled : from) + side * p.batch, p, u.unit, u.b0);
    if (!u.ends) return;
    Place at = place(p, lengths, u.direction, u.b, step);
    i64 state = u.state(p);
    float before = from[state];
    if (!at.is_active) {
        if (PHASE == 1) {
            scaled[state] = 0.0f;
        } else {
            to[state] = before;
            put_result(y, p, u, step, 0.0f);
        }
        return;
    }
    const S *x = gates + (i64)at.input_step * p.gates_step + (i64)u.b * p.gates_sequence + side * 3 + u.unit;
    Bias<3, S> bias(bias_in, p, u);
    Gate function = {p, u.direction};
    float z, candidate;
    if (PHASE == 2) {
        z = update[state];
        candidate = sums[0] + bias.state(2);
    } else {
        z = function(0, sums[0] + widen<float>(x[0]) + bias.both(0));
        float r = function(0, sums[1] + widen<float>(x[p.hidden]) + bias.both(1));
        if (PHASE == 1) {
            update[state] = z;
            scaled[state] = r * before;
            return;
        }
        candidate = r * (sums[COUNT - 1] + bias.state(2));
    }
    candidate = function(1, candidate + widen<float>(x[2 * p.hidden]) + bias.input(2));
    float hidden = (1.0f - z) * candidate + z * before;
    to[state] = hidden;
    put_result(y, p, u, at.input_step, hidden);
}

template <class S>
__device__ __forceinline__ void rnn_step(S *y, float *to, const float *from, const S *gates, const S *weights,
                                         const S *bias_in, const int *lengths, const RecurrentParams &p, u32 step) {
    begin_kernel();
    Unit u(p);
    if (!u.exists) return;
    i64 side = (i64)u.direction * p.hidden;
    float sums[1];
    gate_products(sums, weights + side * p.hidden, from + side * p.batch, p, u.unit, u.b0);
    if (!u.ends) return;
    Place at = place(p, lengths, u.direction, u.b, step);
    i64 state = u.state(p);
    if (!at.is_active) {
        to[state] = from[state];
        return put_result(y, p, u, step, 0.0f);
    }
    const S *x = gates + (i64)at.input_step * p.gates_step + (i64)u.b * p.gates_sequence + side + u.unit;
    Bias<1, S> bias(bias_in, p, u);
    Gate function = {p, u.direction};
    float hidden = function(0, sums[0] + widen<float>(x[0]) + bias.both(0));
    to[state] = hidden;
    put_result(y, p, u, at.input_step, hidden);
}

#define RECURRENT_KERNELS(SUFFIX, S)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                 \
        recurrent_begin_##SUFFIX(float *hidden, float *cell, const S *hidden_in, const S *cell_in, RecurrentParams p) { \
        recurrent_begin(hidden, cell, hidden_in, cell_in, p);                                                         \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                                 \
        recurrent_end_##SUFFIX(S *hidden_out, S *cell_out, const float *hidden, const float *cell, RecurrentParams p) { \
        recurrent_end(hidden_out, cell_out, hidden, cell, p);                                                         \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                                 \
        recurrent_lstm_##SUFFIX(S *y, float *to, float *cell, const float *from, const S *gates, const S *weights,    \
                                const S *bias, const S *peepholes, const int *lengths, RecurrentParams p, u32 step) { \
        lstm_step(y, to, cell, from, gates, weights, bias, peepholes, lengths, p, step);                              \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256)                                                                 \
        recurrent_rnn_##SUFFIX(S *y, float *to, const float *from, const S *gates, const S *weights, const S *bias,   \
                               const int *lengths, RecurrentParams p, u32 step) {                                     \
        rnn_step(y, to, from, gates, weights, bias, lengths, p, step);                                                \
    }                                                                                                                 \
    RECURRENT_GRU(gru, 0, SUFFIX, S)                                                                                  \
    RECURRENT_GRU(gru_gates, 1, SUFFIX, S)                                                                            \
    RECURRENT_GRU(gru_state, 2, SUFFIX, S)

#define RECURRENT_GRU(NAME, PHASE, SUFFIX, S)                                                                         \
    extern "C" __global__ void __launch_bounds__(256) recurrent_##NAME##_##SUFFIX(                                    \
        S *y, float *to, float *update, float *scaled, const float *from, const S *gates, const S *weights,           \
        const S *bias, const int *lengths, RecurrentParams p, u32 step) {                                             \
        gru_step<PHASE>(y, to, update, scaled, from, gates, weights, bias, lengths, p, step);                         \
    }

RECURRENT_KERNELS(f32, float)
RECURRENT_KERNELS(f16, f16)
RECURRENT_KERNELS(bf16, bf16)
