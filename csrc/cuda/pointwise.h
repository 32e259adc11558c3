// What follows a sum: bias, residual, activation.
#pragma once

#include "cuda/cells.h"

namespace krypton::cuda {

enum class Function : int {
    kIdentity,
    kSigmoid,
    kSilu,
    kHardSigmoid,
    kHardSwish,
    kLeakyRelu,
    kElu,
    kTanh,
    kGelu,
    kGeluTanh
};

KRYPTON_HD inline float clamped(float x, float low, float high) {
    return x < low ? low : x > high ? high : x;  // NaN stays
}

// A clamp, then a function; `parameter` is the slope of a leaky ReLU or the alpha of an ELU.
struct Epilogue {
    Function function;
    float low, high, parameter;

    KRYPTON_HD float operator()(float x) const {
        x = clamped(x, low, high);
        switch (function) {
            case Function::kSigmoid: return 1 / (1 + expf(-x));
            case Function::kSilu: return x / (1 + expf(-x));
            case Function::kHardSigmoid: return clamped(x + 3, 0, 6) / 6;
            case Function::kHardSwish: return x * clamped(x + 3, 0, 6) / 6;
            case Function::kLeakyRelu: return x < 0 ? x * parameter : x;
            case Function::kElu: return x < 0 ? parameter * expm1f(x) : x;
            case Function::kTanh: return tanhf(x);
            case Function::kGelu: return 0.5f * x * (1 + erff(x * 0.70710678f));
            case Function::kGeluTanh:
                return 0.5f * x * (1 + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
            default: return x;
        }
    }
};

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
    Epilogue epilogue;

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
            mine[c] = from_float<T>(epilogue(sum));
        }
    }
};

}  // namespace krypton::cuda
