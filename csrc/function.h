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
    kFunctions
};

// PyTorch's names.
constexpr std::pair<const char*, Function> kFunctionNames[] = {
    {"identity", kIdentity},   {"sigmoid", kSigmoid},      {"silu", kSilu}, {"hardsigmoid", kHardSigmoid},
    {"hardswish", kHardSwish}, {"leaky_relu", kLeakyRelu}, {"elu", kElu},   {"tanh", kTanh},
    {"gelu", kGelu},           {"gelu_tanh", kGeluTanh},
};
static_assert(sizeof kFunctionNames / sizeof *kFunctionNames == kFunctions, "every function has a name");

// A function of a float, or of each float of a vector. `parameter` is the slope of a leaky ReLU or the alpha
// of an ELU. `Math` has what differs: exp, expm1, tanh, erf and clamp.
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
        default: return x;
    }
}

}  // namespace krypton
