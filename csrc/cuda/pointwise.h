// What follows a sum: bias, residual, activation.
#pragma once

#include "cuda/cells.h"

namespace krypton::cuda {

enum class Function : int { kClamp, kSilu, kHardSwish, kSigmoid };

KRYPTON_HD inline float clamped(float x, float low, float high) {
    return x < low ? low : x > high ? high : x;  // NaN stays
}

KRYPTON_HD inline float activated(Function function, float x, float low, float high) {
    switch (function) {
        case Function::kSilu: return x / (1 + expf(-x));
        case Function::kHardSwish: return x * clamped(x + 3, 0, 6) / 6;
        case Function::kSigmoid: return 1 / (1 + expf(-x));
        default: return clamped(x, low, high);
    }
}

// What follows a convolution, in place: bias, the cells of another value, an activation.
template <typename T>
struct Finish {
    T* x;
    int64_t columns;
    const float* bias;  // by column, or null
    bool adds;
    Cells residual;
    Read reads[kAxes];
    Box3 box;
    Function function;
    float low, high;

    KRYPTON_HD void operator()(int64_t row, int lane, int lanes) const {
        const T* other = nullptr;
        if (adds) {
            int at[kAxes];
            const int64_t copy = box.split(row, at);
            for (int k = 0; k < kAxes; ++k) at[k] = reads[k].cell(copy, at[k]);
            const Place place = locate(residual, copy, at);
            const char* base = place.where == Where::kChanged ? residual.changed : residual.view;
            other = reinterpret_cast<const T*>(base) + place.row * columns;
        }
        T* mine = x + row * columns;
        for (int64_t c = lane; c < columns; c += lanes) {
            float sum = to_float(mine[c]);
            if (bias) sum += bias[c];
            if (other) sum += to_float(other[c]);
            mine[c] = from_float<T>(activated(function, sum, low, high));
        }
    }
};

}  // namespace krypton::cuda
