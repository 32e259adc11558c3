// Depthwise convolution; the others are products (product.h, winograd.h).
// A part of kernels.cpp, and of no other file.
#pragma once

#include "cpu/lanes.h"

namespace krypton {
namespace KRYPTON_ISA {
namespace {

template <int R>
void depthwise_rows(const Depthwise& d, int64_t row) {
    const Lanes low = splat(d.low), high = splat(d.high);
    for (int64_t c = 0; c < d.channels; c += kLanes) {
        Lanes sum[R];
        const Lanes bias = load(d.bias + c);
        UNROLL for (int r = 0; r < R; ++r) sum[r] = bias;
        for (int64_t t = 0; t < d.taps; ++t) {
            const Lanes w = load(d.weight + t * d.channels + c);
            const float* const* pixels = d.pixels + t * d.stride + row;
            UNROLL for (int r = 0; r < R; ++r) sum[r] += load(pixels[r] + c) * w;
        }
        UNROLL for (int r = 0; r < R; ++r) {
            Lanes x = sum[r];
            if (d.residual) x += load(d.residual[row + r] + c);
            store(d.out[row + r] + c, clamp(x, low, high));
        }
    }
}

void depthwise(const Depthwise& d) {
    int64_t row = 0;
    for (; row + 4 <= d.rows; row += 4) depthwise_rows<4>(d, row);
    for (; row < d.rows; ++row) depthwise_rows<1>(d, row);
}

}  // namespace
}  // namespace KRYPTON_ISA
}  // namespace krypton
