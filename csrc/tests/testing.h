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
    Box box(const Sizes& sizes) {
        Box out;
        for (Axis axis : kAllAxes) out[axis] = interval(sizes[axis]);
        return out;
    }
    // 1, as images have it in depth, as often as anything else.
    int64_t deep(int64_t most) { return chance(0.5) ? 1 : between(1, most); }
    // Of a volume, an image or a signal. In depth fewer cells, or loops in float64 take long.
    Sizes sizes(int64_t largest) {
        return {deep(std::min<int64_t>(largest, 6)), chance(0.9) ? between(1, largest) : 1,
                between(1, largest)};
    }

  private:
    std::uint64_t state_;
};

inline int64_t failures = 0, checks = 0;

inline std::ostream& operator<<(std::ostream& out, const Corner& cell) {
    return out << '(' << cell[kZ] << ", " << cell[kY] << ", " << cell[kX] << ')';
}
inline std::ostream& operator<<(std::ostream& out, const Interval& along) {
    return out << '[' << along.lo << ", " << along.hi << ')';
}
inline std::ostream& operator<<(std::ostream& out, const Box& box) {
    return out << box[kZ] << " x " << box[kY] << " x " << box[kX];
}

// What is wrong, in parts. Streams, since how printf names an int64_t depends on the system.
template <typename... Parts>
void check(bool ok, const Parts&... parts) {
    ++checks;
    if (ok) return;
    std::cerr << std::setprecision(9);
    (std::cerr << ... << parts) << '\n';
    if (++failures == 20) std::exit(1);  // enough to see what is wrong
}

inline bool same(const Box& a, const Box& b) {
    return a.empty() ? b.empty() : a.first() == b.first() && a.sizes() == b.sizes();
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

// Cells of a box, one after the other as memory holds them: visit(cell).
template <typename Visit>
void for_box(const Box& box, const Visit& visit) {
    for (int64_t z = box[kZ].lo; z < box[kZ].hi; ++z)
        for (int64_t y = box[kY].lo; y < box[kY].hi; ++y)
            for (int64_t x = box[kX].lo; x < box[kX].hi; ++x) visit(Corner{z, y, x});
}

struct Tensor {
    Box cells;
    int64_t channels;
    std::vector<double> data;

    Tensor(const Sizes& s, int64_t c) : cells(Box::of(s)), channels(c), data(cells_of(s) * c) {}
    double& at(const Corner& cell, int64_t c) { return data[cells.number(cell) * channels + c]; }
    double at(const Corner& cell, int64_t c) const { return data[cells.number(cell) * channels + c]; }
    Sizes sizes() const { return cells.sizes(); }

    // f(cell, channel)
    template <typename F>
    static Tensor of(const Sizes& sizes, int64_t channels, const F& f) {
        Tensor out(sizes, channels);
        double* to = out.data.data();
        for_box(out.cells, [&](const Corner& cell) {
            for (int64_t c = 0; c < channels; ++c) *to++ = f(cell, c);
        });
        return out;
    }
    Tensor& operator+=(const Tensor& other) {
        for (std::size_t i = 0; i < data.size(); ++i) data[i] += other.data[i];
        return *this;
    }
    std::vector<float> plain() const { return {data.begin(), data.end()}; }
    // As the engine stores it.
    std::vector<float> stored() const {
        const int64_t s = stored_channels(channels);
        std::vector<float> out(cells.cells() * s);
        for (int64_t i = 0; i < cells.cells(); ++i)
            for (int64_t c = 0; c < channels; ++c)
                out[i * s + c] = static_cast<float>(data[i * channels + c]);
        return out;
    }
};

inline Sizes sizes_in(const ByAxis<WindowMap>& maps) { return {maps[kZ].n_in, maps[kY].n_in, maps[kX].n_in}; }
inline Sizes sizes_out(const ByAxis<WindowMap>& maps) {
    return {maps[kZ].n_out, maps[kY].n_out, maps[kX].n_out};
}
// Of an axis that stays as it is.
inline WindowMap alone(int64_t n = 1) { return {n, n, 1, 1, 0, 1}; }

// Windows of three cells along every axis that has more than one.
inline ByAxis<WindowMap> same_sizes(const Sizes& sizes) {
    ByAxis<WindowMap> maps;
    for (Axis axis : kAllAxes)
        maps[axis] = sizes[axis] == 1 ? alone() : WindowMap{sizes[axis], sizes[axis], 3, 1, 1, 1};
    return maps;
}

inline int64_t taps_of(const ByAxis<WindowMap>& maps) {
    return maps[kZ].kernel * maps[kY].kernel * maps[kX].kernel;
}
// visit(cell, tap) of the cells that an output reads, whether or not they exist.
template <typename Visit>
void for_taps(const ByAxis<WindowMap>& maps, const Corner& output, const Visit& visit) {
    const Box taps = Box::of({maps[kZ].kernel, maps[kY].kernel, maps[kX].kernel});
    for_box(taps, [&](const Corner& tap) {
        Corner cell;
        for (Axis axis : kAllAxes) {
            const WindowMap& m = maps[axis];
            cell[axis] = output[axis] * m.stride - m.padding + tap[axis] * m.dilation;
        }
        visit(cell, taps.number(tap));
    });
}

inline Tensor convolved(const Tensor& in, const ConvolutionShape& s, const std::vector<float>& weight,
                        const std::vector<float>& bias) {
    const int64_t in_group = s.in_channels / s.groups, out_group = s.out_channels / s.groups;
    const int64_t taps = taps_of(s.maps);
    Tensor out(sizes_out(s.maps), s.out_channels);
    for_box(out.cells, [&](const Corner& cell) {
        double* sums = &out.at(cell, 0);
        std::copy(bias.begin(), bias.end(), sums);
        for_taps(s.maps, cell, [&](const Corner& from, int64_t t) {
            if (!in.cells.holds(from)) return;
            const double* pixel = &in.data[in.cells.number(from) * in.channels];
            for (int64_t o = 0; o < s.out_channels; ++o)
                for (int64_t c = 0; c < in_group; ++c)
                    sums[o] += pixel[o / out_group * in_group + c] * weight[(o * in_group + c) * taps + t];
        });
    });
    return out;
}

// Maximum where there are no divisors.
inline Tensor pooled(const Tensor& in, const ByAxis<WindowMap>& maps,
                     const ByAxis<std::vector<float>>& divisors) {
    return Tensor::of(sizes_out(maps), in.channels, [&](const Corner& cell, int64_t c) {
        double sum = 0, most = -INFINITY, divisor = 1;
        for_taps(maps, cell, [&](const Corner& from, int64_t) {
            if (!in.cells.holds(from)) return;
            sum += in.at(from, c);
            most = std::max(most, in.at(from, c));
        });
        if (divisors[kX].empty()) return most;
        for (Axis axis : kAllAxes) divisor *= divisors[axis][cell[axis]];
        return sum / divisor;
    });
}

inline Tensor normalised(const Tensor& in, double epsilon, const std::vector<float>& weight,
                         const std::vector<float>& bias) {
    Tensor out = in;
    const int64_t n = in.channels;
    for (int64_t i = 0; i < in.cells.cells(); ++i) {
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

inline Tensor random_image(Random& random, const Sizes& sizes, int64_t channels) {
    return Tensor::of(sizes, channels, [&](const Corner&, int64_t) { return random.number(); });
}

// Divisors of pools, different ones along every axis.
inline ByAxis<std::vector<float>> random_divisors(Random& random, const Sizes& outputs) {
    ByAxis<std::vector<float>> divisors;
    for (Axis axis : kAllAxes)
        for (int64_t i = 0; i < outputs[axis]; ++i)
            divisors[axis].push_back(static_cast<float>(random.between(1, 4)));
    return divisors;
}

// Output o of an axis is input source[o], or a fill where that is -1.
inline ByAxis<IndexMap> index_maps(const ByAxis<std::vector<int64_t>>& sources, const Sizes& in) {
    ByAxis<IndexMap> maps;
    for (Axis axis : kAllAxes) maps[axis] = IndexMap(sources[axis], in[axis]);
    return maps;
}

inline Tensor reindexed(const Tensor& in, const ByAxis<std::vector<int64_t>>& sources, double fill) {
    const auto size = [&](Axis axis) { return std::ssize(sources[axis]); };
    return Tensor::of({size(kZ), size(kY), size(kX)}, in.channels, [&](const Corner& cell, int64_t c) {
        Corner from;
        for (Axis axis : kAllAxes) from[axis] = sources[axis][cell[axis]];
        return in.cells.holds(from) ? in.at(from, c) : fill;
    });
}

// Tables of an axis whose outputs read `taps` cells from a first one on, which never goes back.
inline IntervalMap random_intervals(Random& random, int64_t n_in, int64_t n_out, int64_t taps) {
    IntervalMap map;
    for (int64_t o = 0; o < n_out; ++o) map.read.push_back(random.between(-1, n_in));
    std::ranges::sort(map.read);
    for (int64_t cell = 0; cell < n_in; ++cell) {
        Interval readers;
        for (int64_t o = 0; o < n_out; ++o)
            if (map.read[o] <= cell && cell < map.read[o] + taps) readers = join(readers, {o, o + 1});
        map.first.push_back(readers.lo);
        map.end.push_back(readers.hi);
    }
    for (int64_t n = 1; n <= n_out; ++n) {
        int64_t most = 0;
        for (int64_t o = 0; o + n <= n_out; ++o)
            most = std::max(most, map.read[o + n - 1] - map.read[o] + taps);
        map.extents.push_back(most);
    }
    return map;
}

// Some axes, or none, resampled by weights of up to three cells; integers, so that sums are exact.
struct Resampling {
    ByAxis<IntervalMap> maps;
    ByAxis<std::vector<float>> weights;
    Sizes sizes;  // of what comes out

    Resampling(Random& random, const Sizes& in) : sizes(in) {
        for (Axis axis : kAllAxes) {
            if (random.chance(0.4)) continue;
            const int64_t taps = random.between(1, 3);
            sizes[axis] = random.between(1, axis == kZ ? 5 : 12);
            maps[axis] = random_intervals(random, in[axis], sizes[axis], taps);
            weights[axis] = random.integers(sizes[axis] * taps);
        }
    }
    Tensor of(const Tensor& in) const {
        Tensor out = in;
        for (Axis axis : kAllAxes)
            if (!maps[axis].own_cells()) out = along(axis, out);
        return out;
    }

  private:
    Tensor along(Axis axis, const Tensor& in) const {
        const std::vector<int64_t>& read = maps[axis].read;
        const int64_t taps = std::ssize(weights[axis]) / std::ssize(read);
        Sizes made = in.sizes();
        made[axis] = std::ssize(read);
        return Tensor::of(made, in.channels, [&](const Corner& cell, int64_t c) {
            double sum = 0;
            for (int64_t t = 0; t < taps; ++t) {
                Corner from = cell;
                from[axis] = read[cell[axis]] + t;
                if (in.cells.holds(from)) sum += in.at(from, c) * weights[axis][cell[axis] * taps + t];
            }
            return sum;
        });
    }
};

// Every cell becomes so many along each axis, of fewer channels, in the two orders that there are.
struct Interleaving {
    Sizes cells;
    bool cells_last = false;

    explicit Interleaving(Random& random)
        : cells{random.deep(3), random.between(1, 3), random.between(1, 3)}, cells_last(random.chance(0.5)) {}

    int64_t by_channel() const { return cells_last ? cells_of(cells) : 1; }
    int64_t by_cell(int64_t channels) const { return cells_last ? 1 : channels; }
    Sizes sizes(const Sizes& in) const {
        return {in[kZ] * cells[kZ], in[kY] * cells[kY], in[kX] * cells[kX]};
    }
    Tensor of(const Tensor& in) const {
        const int64_t channels = in.channels / cells_of(cells);
        return Tensor::of(sizes(in.sizes()), channels, [&](const Corner& cell, int64_t c) {
            Corner from, part;
            for (Axis axis : kAllAxes) {
                from[axis] = cell[axis] / cells[axis];
                part[axis] = cell[axis] % cells[axis];
            }
            return in.at(from, c * by_channel() + Box::of(cells).number(part) * by_cell(channels));
        });
    }
};

}  // namespace krypton::testing
