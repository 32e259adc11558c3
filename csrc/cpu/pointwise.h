// Functions and arithmetic of single elements.
// A part of kernels.cpp, and of no other file.
#pragma once

#include "cpu/lanes.h"

namespace krypton {
namespace KRYPTON_ISA {
namespace {

// e^x, or e^x - 1, by 2^n * e^r, |r| <= ln 2 / 2, e^r - 1 by its Taylor series to the seventh power: error
// below one unit in the last place.
template <bool MINUS_ONE = false>
inline Lanes exponential(Lanes x) {
    x = clamp(x, splat(-87.3f), splat(88.3f));  // where 2^n is a normal number
    const Lanes magic = splat(12582912.0f);     // adding it rounds to an integer
    const Lanes n = (x * 1.44269504f + magic) - magic;
    const Lanes r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    Lanes y = splat(1.0f / 5040);
    y = y * r + 1.0f / 720;
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = (y * r + 1.0f) * r;
    const Integers exponent = (__builtin_convertvector(n, Integers) + 127) << 23;
    const Lanes power = (Lanes)exponent;  // a vector cast keeps the bits
    return y * power + (MINUS_ONE ? power - 1.0f : power);
}

inline Lanes magnitude(Lanes x) { return x < 0.0f ? -x : x; }

// tanh by its series near 0, where 1 - 2 / (1 + e^2x) would cancel.
inline Lanes hyperbolic_tangent(Lanes x) {
    const Lanes far = 1.0f - 2.0f / (1.0f + exponential(2.0f * x));
    const Lanes s = x * x;
    Lanes near = splat(-0.00886323f);
    near = near * s + 0.02186949f;
    near = near * s + -0.05396825f;
    near = near * s + 0.13333333f;
    near = near * s + -0.33333333f;
    near = near * s * x + x;
    return magnitude(x) < 0.3f ? near : far;
}

// Coefficients by least squares at Chebyshev nodes: erf(x) / x in x^2 below 1, log(1 - erf(x)) in x up to 4.
constexpr float kErfNear[] = {1.1283791671f, -0.3761263859f, 0.1128378411f, -0.0268655174f,
                              0.0052212613f, -0.0008487265f, 0.0001128815f, -0.0000097283f};
constexpr float kErfFar[] = {5.533868792580613e-05f, -1.1289806893863408f,   -0.6343471423569353f,
                             -0.10726666318828361f,  0.02452049688819674f,   -0.003965013553036803f,
                             0.0003963336430421712f, -1.817330861079226e-05f};

inline Lanes polynomial(const float (&coefficients)[8], Lanes x) {
    Lanes y = splat(coefficients[7]);
    UNROLL for (int i = 6; i >= 0; --i) y = y * x + coefficients[i];
    return y;
}

inline Lanes error_function(Lanes x) {
    const Lanes t = clamp(magnitude(x), splat(0.0f), splat(4.0f));
    const Lanes y = t < 1.0f ? polynomial(kErfNear, t * t) * t : 1.0f - exponential(polynomial(kErfFar, t));
    return x < 0.0f ? -y : y;
}

// log(1 + x) for x from 0 to 1: the series of 2 artanh(s) for s = x / (2 + x), to the fifteenth power.
inline Lanes logarithm_of_one_more(Lanes x) {
    const Lanes s = x / (2.0f + x), z = s * s;
    Lanes y = splat(1.0f / 15);
    UNROLL for (int n = 13; n > 0; n -= 2) y = y * z + 1.0f / static_cast<float>(n);
    return 2.0f * s * y;
}

// See `applied`.
struct LanesMath {
    static Lanes exp(Lanes x) { return exponential(x); }
    static Lanes expm1(Lanes x) { return exponential<true>(x); }
    static Lanes log1p(Lanes x) { return logarithm_of_one_more(x); }
    static Lanes tanh(Lanes x) { return hyperbolic_tangent(x); }
    static Lanes erf(Lanes x) { return error_function(x); }
    static Lanes clamp(Lanes x, float low, float high) {
        return KRYPTON_ISA::clamp(x, splat(low), splat(high));
    }
};

template <int F>
void activate_by(const Activate& a) {
    if (a.function == F) {
        for (int64_t i = 0; i < a.count; i += kLanes)
            store(a.x + i, applied<LanesMath>(static_cast<Function>(F), load(a.x + i), a.parameter));
    } else if constexpr (F + 1 < kFunctions) {
        activate_by<F + 1>(a);
    }
}

void activate(const Activate& a) { activate_by<kSigmoid>(a); }

template <int OPERATION>  // one more than all: just a
void combine_rows(const Combine& o) {
    const Lanes low = splat(o.low), high = splat(o.high);
    for (int64_t row = 0; row < o.rows; ++row) {
        for (int64_t c = 0; c < o.channels; c += kLanes) {
            Lanes x = load(o.a[row] + c);
            if (OPERATION == kAdd) x += load(o.b[row] + c);
            if (OPERATION == kSubtract) x -= load(o.b[row] + c);
            if (OPERATION == kMultiply) x *= load(o.b[row] + c);
            if (OPERATION == kDivide) x /= load(o.b[row] + c);
            if (OPERATION == kMaximum || OPERATION == kMinimum) {
                const Lanes b = load(o.b[row] + c);
                // NaN stays NaN, from either side.
                x = ((OPERATION == kMaximum ? b > x : b < x) | (b != b)) ? b : x;
            }
            if (o.scale) x = x * load(o.scale + c) + load(o.shift + c);
            if (o.slope) x = x < 0.0f ? x * load(o.slope + c) : x;
            store(o.out[row] + c, clamp(x, low, high));
        }
    }
}

void combine(const Combine& o) {
    if (!o.b) return combine_rows<kMinimum + 1>(o);
    switch (o.arithmetic) {
        case kAdd: return combine_rows<kAdd>(o);
        case kSubtract: return combine_rows<kSubtract>(o);
        case kMultiply: return combine_rows<kMultiply>(o);
        case kDivide: return combine_rows<kDivide>(o);
        case kMaximum: return combine_rows<kMaximum>(o);
        case kMinimum: return combine_rows<kMinimum>(o);
    }
}

}  // namespace
}  // namespace KRYPTON_ISA
}  // namespace krypton
