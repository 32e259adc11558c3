// What follows a sum: bias, residual, activation.
#pragma once

#include "cuda/cells.h"
#include "function.h"

namespace krypton::cuda {

// See `applied`.
struct FloatMath {
    static KRYPTON_HD float exp(float x) { return expf(x); }
    static KRYPTON_HD float expm1(float x) { return expm1f(x); }
    static KRYPTON_HD float log1p(float x) { return log1pf(x); }
    static KRYPTON_HD float tanh(float x) { return tanhf(x); }
    static KRYPTON_HD float erf(float x) { return erff(x); }
    static KRYPTON_HD float clamp(float x, float low, float high) {
        return x < low ? low : x > high ? high : x;  // NaN stays
    }
};

// A clamp, then a function.
struct Epilogue {
    Function function;
    float low, high, parameter;

    KRYPTON_HD float operator()(float x) const {
        return applied<FloatMath>(function, FloatMath::clamp(x, low, high), parameter);
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
