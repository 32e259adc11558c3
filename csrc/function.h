// Functions that may end a sum: the one list of them, their names, and what each computes.
#pragma once

#include <utility>

#include "device.h"

namespace krypton {

enum Function : int {
    kIdentity,
    kSigmoid,
    kSilu,
    kHardSigmoid,
    kHardSwish,
    kLeakyRelu,
    kElu,
    kTanh,
    kGelu,
    kGeluTanh,
    kMish,
    kSoftplus,
    kLogSigmoid,
    kSelu,
    kCelu,
    kAbs,
    kFunctions
};

// PyTorch's names.
constexpr std::pair<const char*, Function> kFunctionNames[] = {
    {"identity", kIdentity},
    {"sigmoid", kSigmoid},
    {"silu", kSilu},
    {"hardsigmoid", kHardSigmoid},
    {"hardswish", kHardSwish},
    {"leaky_relu", kLeakyRelu},
    {"elu", kElu},
    {"tanh", kTanh},
    {"gelu", kGelu},
    {"gelu_tanh", kGeluTanh},
    {"mish", kMish},
    {"softplus", kSoftplus},
    {"log_sigmoid", kLogSigmoid},
    {"selu", kSelu},
    {"celu", kCelu},
    {"abs", kAbs},
};
static_assert(sizeof kFunctionNames / sizeof *kFunctionNames == kFunctions, "every function has a name");

// log(1 + e^x)
template <typename Math, typename T>
KRYPTON_HD inline T softplus(T x) {
    const T magnitude = x < 0.0f ? -x : x;
    return (x > 0.0f ? x : T{}) + Math::log1p(Math::exp(-magnitude));
}

// x * tanh(softplus(x))
template <typename Math, typename T>
KRYPTON_HD inline T mish(T x) {
    const T e = Math::exp(Math::clamp(x, -88, 20)), n = e * (e + 2.0f);
    return x < -87.0f ? x * 0.0f : x * (n / (n + 2.0f));  // `exp` need not go to 0
}

// A function of a float, or of each float of a vector. `parameter` is the slope of a leaky ReLU, the alpha of
// an ELU or a CELU, or the beta of a softplus. `Math` has what differs: exp, expm1, tanh, erf, clamp, and
// log1p from 0 to 1.
template <typename Math, typename T>
KRYPTON_HD inline T applied(Function function, T x, float parameter) {
    switch (function) {
        case kSigmoid: return 1.0f / (1.0f + Math::exp(-x));
        case kSilu: return x * (1.0f / (1.0f + Math::exp(-x)));
        case kHardSigmoid: return Math::clamp(x + 3.0f, 0, 6) * (1.0f / 6);
        case kHardSwish: return x * Math::clamp(x + 3.0f, 0, 6) * (1.0f / 6);
        case kLeakyRelu: return x < 0.0f ? x * parameter : x;
        case kElu: return x < 0.0f ? parameter * Math::expm1(x) : x;
        case kTanh: return Math::tanh(x);
        case kGelu: return 0.5f * x * (1.0f + Math::erf(x * 0.70710678f));
        case kGeluTanh: return 0.5f * x * (1.0f + Math::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
        case kMish: return mish<Math>(x);
        case kSoftplus: return softplus<Math>(x * parameter) / parameter;
        case kLogSigmoid: return -softplus<Math>(-x);
        case kSelu: return 1.05070098f * (x < 0.0f ? 1.67326324f * Math::expm1(x) : x);
        case kCelu: return x < 0.0f ? parameter * Math::expm1(x / parameter) : x;
        case kAbs: return x < 0.0f ? -x : x;
        default: return x;
    }
}

}  // namespace krypton
