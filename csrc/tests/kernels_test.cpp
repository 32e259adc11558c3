// Every kernel of every table that this machine can run, against loops in float64.
#include "testing.h"

#include <cstring>
#include <limits>
#include <thread>

namespace krypton::testing {
namespace {

constexpr double kEpsilon = 0x1p-24;  // rounding of one operation
constexpr float kCanary = 12345.0f;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Pixels in memory of their own, each as long as it must be, so that a sanitizer sees every step too far.
class Pixels {
  public:
    Pixels(int64_t count, int64_t floats, const std::function<float()>& value) {
        for (int64_t i = 0; i < count; ++i) {
            pixels_.emplace_back(floats);
            for (float& x : pixels_.back()) x = value();
            pointers_.push_back(pixels_.back().data());
        }
    }
    float* const* data() { return pointers_.data(); }
    const float* const* read() { return pointers_.data(); }
    float at(int64_t pixel, int64_t channel) const { return pixels_[pixel][channel]; }
    void set(int64_t pixel, int64_t channel, float x) { pixels_[pixel][channel] = x; }

  private:
    std::vector<std::vector<float>> pixels_;
    std::vector<float*> pointers_;
};

float clamped(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

// -- multiply ----------------------------------------------------------------------------------------------

void test_multiply(const Kernels& k, Random& random, int64_t rows, int64_t taps, int64_t depth, bool exact) {
    const auto value = [&] { return exact ? random.small_integer() : random.number(); };
    const bool narrow = k.panel > kChannelStep && random.chance(0.3);
    const int64_t columns = narrow ? kChannelStep : k.panel;
    const int64_t stride = rows + random.between(0, 3), a_offset = random.between(0, 5);
    const int64_t c_offset = random.between(0, 2) * kChannelStep;
    const bool accumulates = random.chance(0.3), has_residual = random.chance(0.3),
               clamps = random.chance(0.3);
    Pixels a(taps * stride, a_offset + depth, value), c(rows, c_offset + columns + 1, value),
        residual(rows, c_offset + columns, value);
    const Pixels before = c;
    std::vector<float> b(taps * depth * k.panel), next = b, bias(k.panel);
    for (float& x : b) x = value();
    for (float& x : bias) x = value();
    Multiply m{};
    m.rows = rows;
    m.taps = taps;
    m.depth = depth;
    m.a = a.read();
    m.a_stride = stride;
    m.a_offset = a_offset;
    m.b = b.data();
    m.next = random.chance(0.5) ? next.data() : nullptr;
    m.columns = columns;
    m.c = c.data();
    m.c_offset = c_offset;
    m.bias = accumulates ? nullptr : bias.data();
    m.residual = has_residual ? residual.read() : nullptr;
    m.low = clamps ? -1.5f : -kInfinity;
    m.high = clamps ? 2.5f : kInfinity;
    k.multiply(m);
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t n = 0; n < c_offset + columns + 1; ++n) {
            const int64_t column = n - c_offset;
            if (column < 0 || column >= columns) {
                check(c.at(r, n) == before.at(r, n), k.name, " multiply writes beside its columns");
                continue;
            }
            double sum = accumulates ? before.at(r, n) : bias[column], size = std::abs(sum);
            for (int64_t t = 0; t < taps; ++t)
                for (int64_t d = 0; d < depth; ++d) {
                    const double product =
                        double{a.at(t * stride + r, a_offset + d)} * b[(t * depth + d) * k.panel + column];
                    sum += product;
                    size += std::abs(product);
                }
            if (has_residual) sum += residual.at(r, n);
            // Half of what naive summation could lose: the kernel sums in parts.
            const double tolerance =
                exact ? 0 : kEpsilon * (size + 4) * (4 + std::min<double>(0.5 * taps * depth, 110));
            check(close(c.at(r, n), finished(sum, {m.low, m.high, kIdentity, 0}), tolerance), k.name,
                  " multiply rows=", rows, " taps=", taps, " depth=", depth, " columns=", columns, ": row ",
                  r, " column ", column, " is ", c.at(r, n), ", not ", sum, " (tolerance ", tolerance, ")");
        }
    }
}

void test_multiplies(const Kernels& k, Random& random) {
    for (int64_t rows = 1; rows <= 40; ++rows)
        for (int i = 0; i < 6; ++i)
            test_multiply(k, random, rows, random.choice<int64_t>({1, 1, 2, 3, 9}), random.between(1, 40),
                          i % 2);
    for (int64_t depth : {1, 2, 7, 95, 96, 97, 191, 193, 769, 1000})
        for (int64_t taps : {1, 2, 9}) test_multiply(k, random, random.between(1, 14), taps, depth, true);
    for (int64_t depth : {512, 1111}) test_multiply(k, random, 13, 9, depth, false);
}

// -- Winograd ----------------------------------------------------------------------------------------------

bool halves(WinogradAxis kind) { return kAxisShapes[kind].shared < kAxisShapes[kind].points; }

std::vector<double> points_of(WinogradAxis kind) {
    const double h = std::sqrt(0.5), t = std::sqrt(2.0), infinity = INFINITY;
    std::vector<double> all = {0, h, -h, t, -t, infinity};
    if (kAxisShapes[kind].taps == 1) all = {0};
    if (kAxisShapes[kind].taps == 7) all = {0.4, -0.4, 0.8, -0.8, 1.25, -1.25, 2.5, -2.5, infinity};
    if (halves(kind)) all = {0, 1, -1, infinity};
    const auto first = all.begin() + kAxisShapes[kind].first;
    return {first, first + kAxisShapes[kind].shared};
}

// The kernel's polynomial at a point; at infinity its leading coefficient.
std::vector<double> powers(double point, int taps) {
    std::vector<double> out(taps);
    for (int i = 0; i < taps; ++i) out[i] = std::isinf(point) ? (i == taps - 1) : std::pow(point, i);
    return out;
}

// The taps' shares of the weight of each product: with stride 2 the outer taps', then the middle one's.
std::vector<std::vector<double>> factors_of(WinogradAxis kind) {
    std::vector<std::vector<double>> out;
    for (double point : points_of(kind)) {
        out.push_back(powers(point, halves(kind) ? 2 : kAxisShapes[kind].taps));
        if (halves(kind)) out.back().insert(out.back().begin() + 1, 0);
    }
    out.resize(kAxisShapes[kind].points, {0, 1, 0});
    return out;
}

void test_winograd(const Kernels& k, Random& random, WinogradAxis ky, WinogradAxis kx) {
    const AxisShape &y = kAxisShapes[ky], &x = kAxisShapes[kx];
    const int64_t channels = random.choice<int64_t>({16, 32, 48});
    const int rows = static_cast<int>(random.between(1, y.outputs));
    const int columns = static_cast<int>(random.between(1, x.outputs));
    const int64_t stride = x.points + random.between(0, 3), out_stride = channels * (columns + 1);
    const auto value = [&] { return random.number(); };
    Pixels in(y.points * stride, channels, value), between(y.points * x.points, channels, value);
    k.winograd_input[ky][kx]({in.read(), stride, between.data(), channels});
    const std::vector<float> kernel = random.numbers(y.taps * x.taps);
    const auto all_y = factors_of(ky), all_x = factors_of(kx);
    const int step = halves(ky) ? 2 : 1;
    for (int i = 0; i < y.points; ++i)
        for (int j = 0; j < x.points; ++j) {
            const auto &fy = all_y[i], &fx = all_x[j];
            double factor = 0;
            for (int s = 0; s < y.taps; ++s)
                for (int t = 0; t < x.taps; ++t) factor += kernel[s * x.taps + t] * fy[s] * fx[t];
            for (int64_t c = 0; c < channels; ++c)
                between.set(i * x.points + j, c,
                            between.at(i * x.points + j, c) * static_cast<float>(factor));
        }
    const bool has_residual = random.chance(0.5), clamps = random.chance(0.3);
    const int64_t residual_stride = columns + random.between(0, 2);
    Pixels residual(rows * residual_stride, channels, value);
    const std::vector<float> bias = random.numbers(channels);
    std::vector<float> out(rows * out_stride, kCanary);
    const float low = clamps ? -2.0f : -kInfinity, high = clamps ? 3.0f : kInfinity;
    k.winograd_output[ky][kx]({between.read(), out.data(), out_stride, channels, rows, columns, bias.data(),
                               has_residual ? residual.read() : nullptr, residual_stride, low, high});
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j)
            for (int64_t c = 0; c < channels; ++c) {
                double sum = bias[c], size = 1;
                for (int s = 0; s < y.taps; ++s)
                    for (int t = 0; t < x.taps; ++t) {
                        const double product =
                            double{in.at((i * step + s) * stride + j * step + t, c)} * kernel[s * x.taps + t];
                        sum += product;
                        size += std::abs(product);
                    }
                if (has_residual) sum += residual.at(i * residual_stride + j, c);
                const float found = out[i * out_stride + j * channels + c];
                check(close(found, finished(sum, {low, high, kIdentity, 0}),
                            (std::max(y.taps, x.taps) > 5 ? 256 : 64) * kEpsilon * size),
                      k.name, " winograd F(", y.outputs, ",", y.taps, ")x(", x.outputs, ",", x.taps,
                      "): cell ", i, ",", j, " channel ", c, " is ", found, ", not ", sum, ": off by ",
                      std::abs(found - sum) / size / kEpsilon, " units");
            }
        for (int64_t n = columns * channels; n < out_stride; ++n)
            check(out[i * out_stride + n] == kCanary, k.name, " winograd writes beside its tile");
    }
}

void test_winograds(const Kernels& k, Random& random) {
    for (int ky = 0; ky < kWinogradAxes; ++ky)
        for (int kx = 0; kx < kWinogradAxes; ++kx) {
            const int ty = kAxisShapes[ky].taps, tx = kAxisShapes[kx].taps;
            const bool strided = halves(static_cast<WinogradAxis>(ky));
            const bool wanted = strided == halves(static_cast<WinogradAxis>(kx)) &&
                                (ty == tx ? ty == 3 || ty == 5 : !strided && (ty == 1 || tx == 1));
            check(!wanted == !k.winograd_input[ky][kx] && !wanted == !k.winograd_output[ky][kx], k.name,
                  ": the table ", wanted ? "lacks" : "has", " winograd for kernels of ", ty, "x", tx);
            for (int i = 0; wanted && i < 12; ++i)
                test_winograd(k, random, static_cast<WinogradAxis>(ky), static_cast<WinogradAxis>(kx));
        }
}

void test_winograd_pairs(const Kernels& k, Random& random) {
    const int64_t channels = random.choice<int64_t>({16, 32, 48});
    const auto value = [&] { return random.number(); };
    Pixels in(kPairPoints, channels, value), products(kPairPoints, channels, value);
    WinogradPair there{{}, {}, channels}, back{{}, {products.data()[0], products.data()[1]}, channels};
    for (int i = 0; i < kPairPoints; ++i) {
        there.in[i] = in.read()[i];
        there.out[i] = products.data()[i];
        back.in[i] = products.read()[i];
    }
    k.winograd_pair_input(there);
    const std::vector<float> taps = random.numbers(3);
    const double sum = (taps[0] + taps[2]) / 2, half = taps[1] / 2;
    const double weights[kPairPoints] = {taps[0], sum + half, sum - half, taps[2]};
    for (int q = 0; q < kPairPoints; ++q)
        for (int64_t c = 0; c < channels; ++c)
            products.set(q, c, products.at(q, c) * static_cast<float>(weights[q]));
    k.winograd_pair_output(back);  // in place
    for (int i = 0; i < 2; ++i)
        for (int64_t c = 0; c < channels; ++c) {
            double expected = 0, size = 1;
            for (int t = 0; t < 3; ++t) {
                expected += double{in.at(i + t, c)} * taps[t];
                size += std::abs(double{in.at(i + t, c)} * taps[t]);
            }
            check(close(products.at(i, c), expected, 32 * kEpsilon * size), k.name,
                  " winograd of pairs: slice ", i, " channel ", c, " is ", products.at(i, c), ", not ",
                  expected);
        }
}

// -- the others --------------------------------------------------------------------------------------------

void test_depthwise(const Kernels& k, Random& random, int64_t rows) {
    const int64_t taps = random.choice<int64_t>({1, 3, 9, 25}),
                  channels = random.choice<int64_t>({16, 32, 48});
    const int64_t stride = rows + random.between(0, 2);
    const auto value = [&] { return random.small_integer(); };
    Pixels in(taps * stride, channels, value), residual(rows, channels, value), out(rows, channels, value);
    const std::vector<float> weight = random.integers(taps * channels), bias = random.integers(channels);
    const bool has_residual = random.chance(0.5);
    const float low = random.chance(0.5) ? 0.0f : -kInfinity, high = random.chance(0.5) ? 6.0f : kInfinity;
    k.depthwise({rows, taps, channels, in.read(), stride, weight.data(), bias.data(),
                 has_residual ? residual.read() : nullptr, out.data(), low, high});
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < channels; ++c) {
            float sum = bias[c] + (has_residual ? residual.at(r, c) : 0);
            for (int64_t t = 0; t < taps; ++t) sum += in.at(t * stride + r, c) * weight[t * channels + c];
            check(out.at(r, c) == clamped(sum, low, high), k.name, " depthwise: ", out.at(r, c), ", not ",
                  clamped(sum, low, high));
        }
}

void test_pool(const Kernels& k, Random& random, int64_t rows, bool maximum) {
    const int64_t taps = random.choice<int64_t>({1, 4, 9}), channels = random.choice<int64_t>({16, 32, 48});
    const int64_t stride = rows + random.between(0, 2);
    Pixels in(taps * stride, channels, [&] {
        const float x = random.number();  // padding is -inf, and a NaN is the maximum, as in PyTorch
        return !maximum ? x : random.chance(0.3) ? -kInfinity : random.chance(0.02) ? kNaN : x;
    });
    Pixels out(rows, channels, [&] { return random.number(); });
    std::vector<float> scale(rows);
    for (float& x : scale) x = 1 / static_cast<float>(random.between(1, 9));
    k.pool({rows, taps, channels, in.read(), stride, maximum ? nullptr : scale.data(), out.data()});
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < channels; ++c) {
            double sum = 0, most = -INFINITY;
            for (int64_t t = 0; t < taps; ++t) {
                const double x = in.at(t * stride + r, c);
                sum += x;
                if (x > most || std::isnan(x)) most = std::isnan(most) ? most : x;
            }
            const double expected = maximum ? most : sum * scale[r];
            check(close(out.at(r, c), expected, maximum ? 0 : 24 * kEpsilon), k.name, " pool: ", out.at(r, c),
                  ", not ", expected);
        }
}

// Largest error of a function where its value is about 1 or below, and relative to x elsewhere.
constexpr double kTolerance[kFunctions] = {0, 2, 2, 1, 1, 1, 2, 3, 3, 6, 4, 4, 4, 4, 4, 0};

void test_activate(const Kernels& k, Function function) {
    const float parameter = 0.3f;
    std::vector<float> x;
    for (float v = 0; v < 12; v += 1.0f / 512) x.insert(x.end(), {v, -v});
    for (float v : {0.2999999f, 0.3f, 0.3000001f, 0.9999999f, 1.0f, 1.4142135f, 1.4142137f, 3.0f, 87.3f,
                    88.7f, 88.8f, 104.0f, 1e3f, 1e10f, 1e-3f, 1e-10f, 1e-30f})
        x.insert(x.end(), {v, -v});
    while (x.size() % kChannelStep) x.push_back(0);
    std::vector<float> y = x;
    k.activate({function, parameter, y.data(), static_cast<int64_t>(y.size())});
    for (std::size_t i = 0; i < x.size(); ++i) {
        const double expected = function_of(function, x[i], parameter);
        const double unit =
            2 * kEpsilon * std::max({std::abs(expected), std::min(1.0, std::abs(double{x[i]})), 1e-30});
        check(close(y[i], expected, kTolerance[function] * unit), k.name, " function ", function, " of ",
              x[i], ": ", y[i], ", not ", expected, ": off by ", std::abs(y[i] - expected) / unit, " units");
    }
    std::vector<float> special(kChannelStep, 0.0f);
    special[1] = kNaN;
    special[2] = kInfinity;
    special[3] = -kInfinity;
    special[4] = 1e37f;
    special[5] = -1e37f;
    std::vector<float> found = special;
    k.activate({function, parameter, found.data(), kChannelStep});
    // x * sigmoid(x) and its like at -infinity: 0 * infinity there, 0 in the limit; either will do.
    const bool product = function == kSilu || function == kGelu || function == kGeluTanh ||
                         function == kHardSwish || function == kMish;
    for (int i : {0, 1, 2, 3, 4, 5}) {
        const double expected = function_of(function, special[i], parameter);
        const bool either = product && i == 3 && (std::isnan(found[i]) || found[i] == 0);
        check(either || close(found[i], expected, 1e-6 * std::abs(expected)), k.name, " function ", function,
              " of ", special[i], ": ", found[i], ", not ", expected);
    }
}

void test_combine(const Kernels& k, Random& random, Arithmetic arithmetic) {
    const int64_t rows = random.between(1, 20), channels = random.choice<int64_t>({16, 32, 48});
    const auto value = [&] { return random.chance(0.02) ? kNaN : random.small_integer(); };
    Pixels a(rows, channels, value), b(rows, channels, value), out(rows, channels, value);
    const bool two = random.chance(0.7), scaled = random.chance(0.5), sloped = random.chance(0.3);
    const std::vector<float> scale = random.integers(channels), shift = random.integers(channels);
    const std::vector<float> slope = random.integers(channels);
    const float low = random.chance(0.5) ? 0.0f : -kInfinity, high = random.chance(0.5) ? 6.0f : kInfinity;
    k.combine({arithmetic, rows, channels, a.read(), two ? b.read() : nullptr,
               scaled ? scale.data() : nullptr, scaled ? shift.data() : nullptr, out.data(), low, high,
               sloped ? slope.data() : nullptr});
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < channels; ++c) {
            double x = two ? arithmetic_of(arithmetic, a.at(r, c), b.at(r, c)) : a.at(r, c);
            if (scaled) x = x * scale[c] + shift[c];
            if (sloped && x < 0) x *= slope[c];
            const double expected = finished(x, {low, high, kIdentity, 0});
            const double tolerance = arithmetic == kDivide ? 16 * kEpsilon * (1 + std::abs(expected)) : 0;
            check(close(out.at(r, c), expected, tolerance), k.name, " combine: ", out.at(r, c), ", not ",
                  expected);
        }
}

void test_layer_norm(const Kernels& k, Random& random, int64_t channels) {
    const int64_t rows = random.between(1, 5), stored = stored_channels(channels);
    const float centre = random.number() * 10;
    Pixels in(rows, stored, [&] { return centre + random.number(); });
    Pixels out(rows, stored, [&] { return random.number(); });
    const bool has_weight = random.chance(0.5), has_bias = random.chance(0.5);
    const std::vector<float> weight = has_weight ? random.numbers(channels) : std::vector<float>();
    const std::vector<float> bias = has_bias ? random.numbers(channels) : std::vector<float>();
    const float epsilon = 1e-5f;
    k.layer_norm({rows, channels, stored, epsilon, has_weight ? weight.data() : nullptr,
                  has_bias ? bias.data() : nullptr, in.read(), out.data()});
    Tensor x({1, 1, rows}, channels);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < channels; ++c) x.at({0, 0, r}, c) = in.at(r, c);
    const Tensor expected = normalised(x, epsilon, weight, bias);
    for (int64_t r = 0; r < rows; ++r) {
        double spread = epsilon;
        for (int64_t c = 0; c < channels; ++c) spread += std::pow(x.at({0, 0, r}, c) - centre, 2) / channels;
        // The mean is rounded: relative to the spread that is this much.
        const double tolerance = 64 * kEpsilon * (2 + std::abs(centre) / std::sqrt(spread));
        for (int64_t c = 0; c < stored; ++c)
            check(close(out.at(r, c), c < channels ? expected.at({0, 0, r}, c) : 0,
                        c < channels ? tolerance : 0),
                  k.name, " layer norm of ", channels, " channels: channel ", c, " is ", out.at(r, c),
                  ", not ", c < channels ? expected.at({0, 0, r}, c) : 0.0, " (tolerance ", tolerance, ")");
    }
}

void test_sum(const Kernels& k, Random& random) {
    const int64_t rows = random.between(1, 40), channels = random.choice<int64_t>({16, 32, 48});
    const auto value = [&] { return random.small_integer(); };
    Pixels now(rows, channels, value), before(rows, channels, value);
    const std::vector<float> centre = random.integers(channels);
    const bool changes = random.chance(0.5), squares = random.chance(0.5);
    std::vector<double> sums(channels), squared(channels);
    k.sum({rows, channels, now.read(), changes ? before.read() : nullptr, squares ? centre.data() : nullptr,
           sums.data(), squared.data()});
    for (int64_t c = 0; c < channels; ++c) {
        double sum = 0, square = 0;
        for (int64_t r = 0; r < rows; ++r) {
            const double a = now.at(r, c), b = before.at(r, c), m = centre[c];
            sum += a - (changes ? b : squares ? m : 0);
            square += (a - m) * (a - m) - (changes ? (b - m) * (b - m) : 0);
        }
        check(sums[c] == sum, k.name, " sum: ", sums[c], ", not ", sum);
        check(squared[c] == (squares ? square : 0), k.name, " squares: ", squared[c], ", not ", square);
    }
}

void test_denormals(const Kernels& k) {
    float product = 1;
    std::thread([&] {
        k.flush_denormals();
        volatile float tiny = 1e-30f;
        product = tiny * 1e-10f;
    }).join();
    check(product == 0, k.name, ": denormals are not flushed");
}

void test_tables() {
    int count = 0;
    for (const char* const* name = kernel_names(); *name; ++name, ++count)
        check(kernels(*name) && !std::strcmp(kernels(*name)->name, *name), *name,
              " is not found by its name");
    check(count > 0 && kernels(nullptr) == kernels(kernel_names()[0]), "the best table is not the first");
    check(!std::strcmp(kernel_names()[count - 1], "portable"), "portable kernels are missing");
    check(!kernels("abacus") && !kernels(""), "a table that does not exist is found");
}

}  // namespace
}  // namespace krypton::testing

int main() {
    using namespace krypton;
    using namespace krypton::testing;
    test_tables();
    for (const char* const* name = kernel_names(); *name; ++name) {
        const Kernels& k = *kernels(*name);
        k.flush_denormals();  // as the engine's threads do
        Random random(1);
        test_multiplies(k, random);
        test_winograds(k, random);
        test_winograd_pairs(k, random);
        for (int64_t i = 0; i < 60; ++i) {
            test_depthwise(k, random, 1 + i % 20);
            test_pool(k, random, 1 + i % 20, i % 2);
            test_combine(k, random, static_cast<Arithmetic>(i % 6));
            test_layer_norm(k, random, 1 + i);
            test_sum(k, random);
        }
        for (int f = kIdentity + 1; f < kFunctions; ++f) test_activate(k, static_cast<Function>(f));
        test_denormals(k);
        std::cout << *name << ": done\n";
    }
    return report("kernels");
}
