// What the tests share: random numbers, checks, and float64 loops to compare with.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <iomanip>
#include <iostream>
#include <numbers>
#include <numeric>
#include <vector>

#include "operators/operators.h"

namespace krypton::testing {

// Seeds of random cases, as a test's arguments `[rounds] [first seed]` have them.
inline std::vector<int64_t> seeds(int argc, char** argv, int64_t rounds) {
    std::vector<int64_t> out(argc > 1 ? std::atol(argv[1]) : rounds);
    std::iota(out.begin(), out.end(), argc > 2 ? std::atol(argv[2]) : 1);
    return out;
}

// The same numbers on every machine.
class Random {
  public:
    explicit Random(std::uint64_t seed) : state_(seed) {}

    std::uint64_t bits() {  // splitmix64
        std::uint64_t z = state_ += 0x9e3779b97f4a7c15;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return z ^ (z >> 31);
    }
    // In [lo, hi].
    int64_t between(int64_t lo, int64_t hi) {
        return lo + static_cast<int64_t>(bits() % static_cast<std::uint64_t>(hi - lo + 1));
    }
    bool chance(double p) { return uniform() < p; }
    double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
    // Of mean 0 and deviation 1.
    float number() {
        return static_cast<float>((uniform() + uniform() + uniform() + uniform() - 2) * 1.7320508);
    }
    // Sums of products of these are exact in float32, so that a kernel must be equal to the bit.
    float small_integer() { return static_cast<float>(between(-4, 4)); }
    template <typename T>
    const T& choice(const std::vector<T>& of) {
        return of[between(0, static_cast<int64_t>(of.size()) - 1)];
    }
    std::vector<float> numbers(int64_t count, float scale = 1) {
        std::vector<float> out(count);
        for (float& x : out) x = number() * scale;
        return out;
    }
    std::vector<float> integers(int64_t count) {
        std::vector<float> out(count);
        for (float& x : out) x = small_integer();
        return out;
    }
    // At least one cell of [0, size).
    Interval interval(int64_t size) {
        const int64_t lo = between(0, size - 1);
        return {lo, between(lo + 1, size)};
    }

  private:
    std::uint64_t state_;
};

inline int64_t failures = 0, checks = 0;

// What is wrong, in parts. Streams, since how printf names an int64_t depends on the system.
template <typename... Parts>
void check(bool ok, const Parts&... parts) {
    ++checks;
    if (ok) return;
    std::cerr << std::setprecision(9);
    (std::cerr << ... << parts) << '\n';
    if (++failures == 20) std::exit(1);  // enough to see what is wrong
}

// `tolerance` is absolute. A NaN is only close to a NaN.
inline bool close(double found, double expected, double tolerance) {
    if (std::isnan(expected) || std::isnan(found)) return std::isnan(expected) && std::isnan(found);
    if (std::isinf(expected)) return found == expected;
    return std::abs(found - expected) <= tolerance;
}

inline int report(const char* what) {
    std::cout << what << ": " << checks << " checks, " << failures << " failures\n";
    return failures || !checks;
}

inline double function_of(Function function, double x, double parameter) {
    switch (function) {
        case kSigmoid: return 1 / (1 + std::exp(-x));
        case kSilu: return x / (1 + std::exp(-x));
        case kHardSigmoid: return std::isnan(x) ? x : std::clamp(x + 3, 0.0, 6.0) / 6;
        case kHardSwish: return std::isnan(x) ? x : x * std::clamp(x + 3, 0.0, 6.0) / 6;
        case kLeakyRelu: return x < 0 ? x * parameter : x;
        case kElu: return x < 0 ? parameter * std::expm1(x) : x;
        case kTanh: return std::tanh(x);
        case kGelu: return 0.5 * x * (1 + std::erf(x * std::sqrt(0.5)));
        case kGeluTanh:
            return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
        case kMish: return x * std::tanh(std::log1p(std::exp(x)));
        case kSoftplus:
            return (std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x * parameter))) / parameter);
        case kLogSigmoid: return std::min(x, 0.0) - std::log1p(std::exp(-std::abs(x)));
        case kSelu: return 1.0507009873554805 * (x < 0 ? 1.6732632423543772 * std::expm1(x) : x);
        case kCelu: return x < 0 ? parameter * std::expm1(x / parameter) : x;
        case kAbs: return std::abs(x);
        default: return x;
    }
}

inline double finished(double x, const Epilogue& end) {
    if (x < end.low) x = end.low;
    if (x > end.high) x = end.high;
    return function_of(end.function, x, end.parameter);
}

// -- operators in float64 ----------------------------------------------------------------------------------

struct Tensor {
    int64_t height, width, channels;
    std::vector<double> data;

    Tensor(int64_t h, int64_t w, int64_t c) : height(h), width(w), channels(c), data(h * w * c) {}
    double& at(int64_t y, int64_t x, int64_t c) { return data[(y * width + x) * channels + c]; }
    double at(int64_t y, int64_t x, int64_t c) const { return data[(y * width + x) * channels + c]; }
    bool holds(int64_t y, int64_t x) const { return y >= 0 && y < height && x >= 0 && x < width; }

    template <typename F>
    static Tensor of(int64_t h, int64_t w, int64_t c, const F& f) {
        Tensor out(h, w, c);
        for (int64_t y = 0; y < h; ++y)
            for (int64_t x = 0; x < w; ++x)
                for (int64_t k = 0; k < c; ++k) out.at(y, x, k) = f(y, x, k);
        return out;
    }
    // As the engine stores it.
    std::vector<float> stored() const {
        const int64_t s = stored_channels(channels);
        std::vector<float> out(height * width * s);
        for (int64_t i = 0; i < height * width; ++i)
            for (int64_t c = 0; c < channels; ++c)
                out[i * s + c] = static_cast<float>(data[i * channels + c]);
        return out;
    }
};

// visit(y, x, tap) of the cells that output (oy, ox) reads, whether or not they exist.
template <typename Visit>
void for_taps(const WindowMap& my, const WindowMap& mx, int64_t oy, int64_t ox, const Visit& visit) {
    for (int64_t i = 0; i < my.kernel; ++i)
        for (int64_t j = 0; j < mx.kernel; ++j)
            visit(oy * my.stride - my.padding + i * my.dilation,
                  ox * mx.stride - mx.padding + j * mx.dilation, i * mx.kernel + j);
}

inline Tensor convolved(const Tensor& in, const ConvolutionShape& s, const std::vector<float>& weight,
                        const std::vector<float>& bias) {
    const int64_t in_group = s.in_channels / s.groups, out_group = s.out_channels / s.groups;
    const int64_t taps = s.y.kernel * s.x.kernel;
    return Tensor::of(s.y.n_out, s.x.n_out, s.out_channels, [&](int64_t oy, int64_t ox, int64_t o) {
        double sum = bias.empty() ? 0 : bias[o];
        for_taps(s.y, s.x, oy, ox, [&](int64_t y, int64_t x, int64_t t) {
            if (!in.holds(y, x)) return;
            for (int64_t c = 0; c < in_group; ++c)
                sum += in.at(y, x, o / out_group * in_group + c) * weight[(o * in_group + c) * taps + t];
        });
        return sum;
    });
}

// Maximum where there are no divisors.
inline Tensor pooled(const Tensor& in, const WindowMap& my, const WindowMap& mx, const std::vector<float>& dy,
                     const std::vector<float>& dx) {
    return Tensor::of(my.n_out, mx.n_out, in.channels, [&](int64_t oy, int64_t ox, int64_t c) {
        double sum = 0, most = -INFINITY;
        for_taps(my, mx, oy, ox, [&](int64_t y, int64_t x, int64_t) {
            if (!in.holds(y, x)) return;
            sum += in.at(y, x, c);
            most = std::max(most, in.at(y, x, c));
        });
        return dy.empty() ? most : sum / (double{dy[oy]} * dx[ox]);
    });
}

inline Tensor normalised(const Tensor& in, double epsilon, const std::vector<float>& weight,
                         const std::vector<float>& bias) {
    Tensor out = in;
    const int64_t n = in.channels;
    for (int64_t i = 0; i < in.height * in.width; ++i) {
        double* x = out.data.data() + i * n;
        double mean = 0, square = 0;
        for (int64_t c = 0; c < n; ++c) mean += x[c] / static_cast<double>(n);
        for (int64_t c = 0; c < n; ++c) square += (x[c] - mean) * (x[c] - mean) / static_cast<double>(n);
        for (int64_t c = 0; c < n; ++c)
            x[c] = (x[c] - mean) / std::sqrt(square + epsilon) * (weight.empty() ? 1.0 : double{weight[c]}) +
                   (bias.empty() ? 0.0 : double{bias[c]});
    }
    return out;
}

inline double arithmetic_of(Arithmetic arithmetic, double a, double b) {
    switch (arithmetic) {
        case kAdd: return a + b;
        case kSubtract: return a - b;
        case kMultiply: return a * b;
        case kDivide: return a / b;
        case kMaximum: return std::isnan(b) || b > a ? b : a;
        case kMinimum: return std::isnan(b) || b < a ? b : a;
    }
    return std::nan("");
}

inline Tensor random_image(Random& random, int64_t height, int64_t width, int64_t channels) {
    return Tensor::of(height, width, channels, [&](int64_t, int64_t, int64_t) { return random.number(); });
}

}  // namespace krypton::testing
