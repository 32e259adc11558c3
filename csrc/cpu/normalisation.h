// Norms over the channels of a pixel.
// A part of kernels.cpp, and of no other file.
#pragma once

#include "cpu/lanes.h"

namespace krypton {
namespace KRYPTON_ISA {
namespace {

inline float total(Lanes x) {
    float sum = 0;
    UNROLL for (int i = 0; i < kLanes; ++i) sum += x[i];
    return sum;
}

void layer_norm(const LayerNorm& n) {
    for (int64_t row = 0; row < n.rows; ++row) {
        const float* in = n.in[row];
        float* out = n.out[row];
        const int64_t whole = n.channels / kLanes * kLanes;
        Lanes sums{};
        for (int64_t c = 0; c < whole; c += kLanes) sums += load(in + c);
        float sum = total(sums);
        for (int64_t c = whole; c < n.channels; ++c) sum += in[c];
        const float mean = sum / static_cast<float>(n.channels);
        Lanes squares{};
        for (int64_t c = 0; c < whole; c += kLanes) {
            const Lanes d = load(in + c) - mean;
            squares += d * d;
        }
        float square = total(squares);
        for (int64_t c = whole; c < n.channels; ++c) square += (in[c] - mean) * (in[c] - mean);
        const float scale = 1.0f / __builtin_sqrtf(square / static_cast<float>(n.channels) + n.epsilon);
        for (int64_t c = 0; c < n.channels; ++c) {
            const float x = (in[c] - mean) * scale;
            out[c] = x * (n.weight ? n.weight[c] : 1.0f) + (n.bias ? n.bias[c] : 0.0f);
        }
        for (int64_t c = n.channels; c < n.stored; ++c) out[c] = 0.0f;
    }
}

}  // namespace
}  // namespace KRYPTON_ISA
}  // namespace krypton
