// What the tests share: random numbers, checks, and float64 loops to compare with.
#pragma once

#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "operators.h"

namespace krypton::testing {

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
    long between(long lo, long hi) {
        return lo + static_cast<long>(bits() % static_cast<std::uint64_t>(hi - lo + 1));
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
        return of[between(0, static_cast<long>(of.size()) - 1)];
    }
    std::vector<float> numbers(long count, float scale = 1) {
        std::vector<float> out(count);
        for (float& x : out) x = number() * scale;
        return out;
    }
    std::vector<float> integers(long count) {
        std::vector<float> out(count);
        for (float& x : out) x = small_integer();
        return out;
    }
    // At least one cell of [0, size).
    Interval interval(long size) {
        const long lo = between(0, size - 1);
        return {lo, between(lo + 1, size)};
    }

  private:
    std::uint64_t state_;
};

inline long failures = 0, checks = 0;

[[gnu::format(printf, 2, 3)]] inline void check(bool ok, const char* format, ...) {
    ++checks;
    if (ok) return;
    std::va_list arguments;
    va_start(arguments, format);
    std::vfprintf(stderr, format, arguments);
    va_end(arguments);
    std::fputc('\n', stderr);
    if (++failures == 20) std::exit(1);  // enough to see what is wrong
}

// `tolerance` is absolute. A NaN is only close to a NaN.
inline bool close(double found, double expected, double tolerance) {
    if (std::isnan(expected) || std::isnan(found)) return std::isnan(expected) && std::isnan(found);
    if (std::isinf(expected)) return found == expected;
    return std::abs(found - expected) <= tolerance;
}

inline int report(const char* what) {
    std::printf("%s: %ld checks, %ld failures\n", what, checks, failures);
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
        case kGeluTanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
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
    long height, width, channels;
    std::vector<double> data;

    Tensor(long h, long w, long c) : height(h), width(w), channels(c), data(h * w * c) {}
    double& at(long y, long x, long c) { return data[(y * width + x) * channels + c]; }
    double at(long y, long x, long c) const { return data[(y * width + x) * channels + c]; }
    bool holds(long y, long x) const { return y >= 0 && y < height && x >= 0 && x < width; }

    template <typename F>
    static Tensor of(long h, long w, long c, const F& f) {
        Tensor out(h, w, c);
        for (long y = 0; y < h; ++y)
            for (long x = 0; x < w; ++x)
                for (long k = 0; k < c; ++k) out.at(y, x, k) = f(y, x, k);
        return out;
    }
    // As the engine stores it.
    std::vector<float> stored() const {
        const long s = stored_channels(channels);
        std::vector<float> out(height * width * s);
        for (long i = 0; i < height * width; ++i)
            for (long c = 0; c < channels; ++c) out[i * s + c] = static_cast<float>(data[i * channels + c]);
        return out;
    }
};

// visit(y, x, tap) of the cells that output (oy, ox) reads, whether or not they exist.
template <typename Visit>
void for_taps(const WindowMap& my, const WindowMap& mx, long oy, long ox, const Visit& visit) {
    for (long i = 0; i < my.kernel; ++i)
        for (long j = 0; j < mx.kernel; ++j)
            visit(oy * my.stride - my.padding + i * my.dilation,
                  ox * mx.stride - mx.padding + j * mx.dilation, i * mx.kernel + j);
}

inline Tensor convolved(const Tensor& in, const ConvolutionShape& s, const std::vector<float>& weight,
                        const std::vector<float>& bias) {
    const long in_group = s.in_channels / s.groups, out_group = s.out_channels / s.groups;
    const long taps = s.y.kernel * s.x.kernel;
    return Tensor::of(s.y.n_out, s.x.n_out, s.out_channels, [&](long oy, long ox, long o) {
        double sum = bias.empty() ? 0 : bias[o];
        for_taps(s.y, s.x, oy, ox, [&](long y, long x, long t) {
            if (!in.holds(y, x)) return;
            for (long c = 0; c < in_group; ++c)
                sum += in.at(y, x, o / out_group * in_group + c) * weight[(o * in_group + c) * taps + t];
        });
        return sum;
    });
}

// Maximum where there are no divisors.
inline Tensor pooled(const Tensor& in, const WindowMap& my, const WindowMap& mx, const std::vector<float>& dy,
                     const std::vector<float>& dx) {
    return Tensor::of(my.n_out, mx.n_out, in.channels, [&](long oy, long ox, long c) {
        double sum = 0, most = -INFINITY;
        for_taps(my, mx, oy, ox, [&](long y, long x, long) {
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
    const long n = in.channels;
    for (long i = 0; i < in.height * in.width; ++i) {
        double* x = out.data.data() + i * n;
        double mean = 0, square = 0;
        for (long c = 0; c < n; ++c) mean += x[c] / static_cast<double>(n);
        for (long c = 0; c < n; ++c) square += (x[c] - mean) * (x[c] - mean) / static_cast<double>(n);
        for (long c = 0; c < n; ++c)
            x[c] = (x[c] - mean) / std::sqrt(square + epsilon) * (weight.empty() ? 1.0 : double{weight[c]}) +
                   (bias.empty() ? 0.0 : double{bias[c]});
    }
    return out;
}

inline double arithmetic_of(Arithmetic arithmetic, double a, double b) {
    return arithmetic == kAdd ? a + b : arithmetic == kSubtract ? a - b : a * b;
}

}  // namespace krypton::testing
