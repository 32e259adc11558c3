// Every operator on boxes of a value whose cells lie in a view or in a changed box, against loops in
// float64 over the whole value.
#include "testing.h"

namespace krypton::testing {
namespace {

// A value of which a box has changed: the engine sees the view and the box, the loops see what they make.
struct Changed {
    Tensor whole;
    Plane plane;
    std::vector<float> view, pixels;

    Changed(Random& random, int64_t height, int64_t width, int64_t channels, bool exact)
        : whole(Tensor::of(height, width, channels, [&](int64_t, int64_t, int64_t) {
              return exact ? random.small_integer() : random.number();
          })) {
        const int64_t stored = stored_channels(channels);
        plane = {height, width, stored, nullptr, nullptr, {}};
        if (random.chance(0.8)) plane.box = {random.interval(height), random.interval(width)};
        view = whole.stored();
        const Box& box = plane.box;
        for (int64_t y = box.y.lo; y < box.y.hi; ++y)
            for (int64_t x = box.x.lo; x < box.x.hi; ++x) {
                float* old = view.data() + (y * width + x) * stored;
                pixels.insert(pixels.end(), old, old + stored);
                std::fill_n(old, stored, 777.0f);  // what is in the box must not be read from the view
            }
        plane.view = view.data();
        plane.changed = pixels.data();
    }
};

// Boxes of the operator's value, at the borders too, and what it computes there.
void test_boxes(const char* what, const Kernels& k, Random& random, const Operator& op,
                const std::vector<const Changed*>& operands, const Tensor& expected, double tolerance) {
    const int64_t count = random.between(1, 4);
    std::vector<Plane> planes;
    for (const Changed* operand : operands) planes.push_back(operand->plane);
    std::vector<Job> jobs;
    std::vector<std::vector<float>> memory;
    Box largest;
    for (int64_t i = 0; i < count; ++i) {
        Box box{random.interval(expected.height), random.interval(expected.width)};
        if (random.chance(0.2)) box = {{0, expected.height}, {0, expected.width}};
        memory.emplace_back(box.cells() * op.stored);
        jobs.push_back({box, memory.back().data(), planes.data()});
        largest = {{0, std::max(largest.y.hi, box.y.size())}, {0, std::max(largest.x.hi, box.x.size())}};
    }
    // Some bounds are too low, as they are when views are computed.
    Scratch scratch(random.chance(0.8) ? op.scratch_bytes(largest, count) : random.between(0, 2000));
    op.run(k, jobs.data(), count, scratch);
    for (const Job& job : jobs) {
        const float* found = job.out;
        for (int64_t y = job.box.y.lo; y < job.box.y.hi; ++y)
            for (int64_t x = job.box.x.lo; x < job.box.x.hi; ++x, found += op.stored)
                for (int64_t c = 0; c < expected.channels; ++c) {
                    const double value =
                        finished(expected.at(y, x, c), {op.epilogue.low, op.epilogue.high, kIdentity, 0});
                    check(close(found[c], value, tolerance), k.name, " ", what, ": (", y, ", ", x,
                          ") channel ", c, " of [", job.box.y.lo, ", ", job.box.y.hi, ") x [", job.box.x.lo,
                          ", ", job.box.x.hi, ") of ", expected.height, "x", expected.width, "x",
                          expected.channels, " is ", found[c], ", not ", value);
                }
    }
}

void prepare(Random& random, Operator& op, std::size_t operands, int64_t channels, bool clamps) {
    for (std::size_t i = 0; i < operands; ++i) op.operands.push_back(static_cast<int>(i));
    op.channels = channels;
    op.stored = stored_channels(channels);
    if (clamps && random.chance(0.5)) op.epilogue = {-1, random.chance(0.5) ? 3 : kNoLimit, kIdentity, 0};
}

WindowMap window_of(Random& random, int64_t kernel, int64_t stride, int64_t dilation) {
    WindowMap m{0, 0, kernel, stride, random.between(0, kernel), dilation};
    const int64_t span = dilation * (kernel - 1) + 1;
    m.n_in = random.between(std::max<int64_t>(1, span - 2 * m.padding), 14);
    if (m.n_in + 2 * m.padding < span) m.n_in = span;
    m.n_out = (m.n_in + 2 * m.padding - span) / stride + 1;
    // As with ceil_mode: the last window may begin in the input and end beyond its padding.
    if (stride > 1 && m.n_out * stride < m.n_in + m.padding && random.chance(0.5)) ++m.n_out;
    return m;
}

void test_convolution(const Kernels& k, Random& random, int64_t ky, int64_t kx, int64_t stride,
                      int64_t dilation, const char* grouping) {
    ConvolutionShape s{window_of(random, ky, stride, dilation),
                       window_of(random, kx, random.between(1, stride), dilation), random.between(1, 40),
                       random.between(1, 40), 1};
    if (grouping[0] == 'd') s.in_channels = s.out_channels = s.groups = random.between(2, 40);
    if (grouping[0] == 'g') {
        s.groups = random.between(2, 6);
        s.in_channels = s.groups * random.between(1, 7);
        s.out_channels = s.groups * random.between(1, 7);
    }
    const bool exact = random.chance(0.5), biased = random.chance(0.7), residual = random.chance(0.4);
    const int64_t fan_in = s.in_channels / s.groups * ky * kx;
    const auto numbers = [&](int64_t n) {
        return exact ? random.integers(n) : random.numbers(n, 1 / std::sqrt(static_cast<float>(fan_in)));
    };
    const std::vector<float> weight = numbers(s.out_channels * fan_in);
    const std::vector<float> bias = biased ? numbers(s.out_channels) : std::vector<float>();
    const Changed in(random, s.y.n_in, s.x.n_in, s.in_channels, exact);
    const Changed added(random, s.y.n_out, s.x.n_out, s.out_channels, exact);
    const auto op = make_convolution(k, s, weight.data(), biased ? bias.data() : nullptr);
    prepare(random, *op, residual ? 2 : 1, s.out_channels, true);
    Tensor expected = convolved(in.whole, s, weight, bias);
    if (residual)
        for (std::size_t i = 0; i < expected.data.size(); ++i) expected.data[i] += added.whole.data[i];
    // Results are of about `size`; sums of integers are exact but where Winograd's points are none.
    const double size = exact ? 7 * std::sqrt(static_cast<double>(fan_in)) : 1;
    const bool halving = ky == 3 && kx == 3 && s.y.stride == 2 && s.x.stride == 2 && dilation == 1;
    const bool tiled = s.groups == 1 && (halving || (stride == 1 && ky * kx > 1));
    const double tolerance = exact && !tiled ? 0 : 2e-5 * size;
    test_boxes(grouping, k, random, *op, {&in, &added}, expected, tolerance);
}

void test_pool(const Kernels& k, Random& random, bool maximum) {
    const int64_t stride = random.between(1, 3), dilation = maximum ? random.between(1, 2) : 1;
    const WindowMap my = window_of(random, random.between(1, 4), stride, dilation);
    const WindowMap mx = window_of(random, random.between(1, 4), stride, dilation);
    const Changed in(random, my.n_in, mx.n_in, random.between(1, 40), false);
    std::vector<float> dy, dx;
    for (int64_t i = 0; !maximum && i < my.n_out; ++i) dy.push_back(static_cast<float>(random.between(1, 4)));
    for (int64_t i = 0; !maximum && i < mx.n_out; ++i) dx.push_back(static_cast<float>(random.between(1, 4)));
    const auto op = make_pool(my, mx, maximum, dy, dx);
    prepare(random, *op, 1, in.whole.channels, false);
    test_boxes("pool", k, random, *op, {&in}, pooled(in.whole, my, mx, dy, dx), maximum ? 0 : 1e-5);
}

void test_combine(const Kernels& k, Random& random) {
    const int64_t h = random.between(1, 14), w = random.between(1, 14), c = random.between(1, 40);
    const auto arithmetic = random.choice<Arithmetic>({kAdd, kSubtract, kMultiply, kMaximum, kMinimum});
    const bool two = random.chance(0.6), scaled = random.chance(0.5), sloped = random.chance(0.3);
    const Changed a(random, h, w, c, true), b(random, h, w, c, true);
    std::vector<float> scale, shift, slope;
    if (sloped) slope = random.integers(stored_channels(c));
    if (scaled) scale = random.integers(stored_channels(c)), shift = random.integers(stored_channels(c));
    const auto op = make_combine(arithmetic, scale, shift, slope);
    prepare(random, *op, two ? 2 : 1, c, true);
    const Tensor expected = Tensor::of(h, w, c, [&](int64_t y, int64_t x, int64_t n) {
        double v =
            two ? arithmetic_of(arithmetic, a.whole.at(y, x, n), b.whole.at(y, x, n)) : a.whole.at(y, x, n);
        if (scaled) v = v * scale[n] + shift[n];
        return sloped && v < 0 ? v * slope[n] : v;
    });
    test_boxes("combine", k, random, *op, {&a, &b}, expected, 0);
}

void test_foreign(const Kernels& k, Random& random) {
    const int64_t h = random.between(1, 14), w = random.between(1, 14), c = random.between(1, 20);
    const int64_t more = random.between(1, 20);
    const Changed a(random, h, w, c, true), b(random, h, w, more, true);
    // One channel more than `a` has: each, and what `b` adds up to.
    const auto op = make_foreign(
        {}, {}, {c, more},
        [=](int64_t boxes, const Extents& extents, const int64_t*, const float* const* in, float* out) {
            const float *from = in[0], *other = in[1];
            for (int64_t i = 0; i < boxes * extents.height * extents.width; ++i) {
                out = std::copy_n(from, c, out);
                *out = 0;
                for (int64_t n = 0; n < more; ++n) *out += other[n];
                from += c, other += more, ++out;
            }
        },
        8);
    prepare(random, *op, 2, c + 1, false);
    const Tensor expected = Tensor::of(h, w, c + 1, [&](int64_t y, int64_t x, int64_t n) {
        if (n < c) return a.whole.at(y, x, n);
        double sum = 0;
        for (int64_t m = 0; m < more; ++m) sum += b.whole.at(y, x, m);
        return sum;
    });
    check(op->bytes_elsewhere({{0, 2}, {0, 3}}, 5) == 240, "bytes elsewhere");
    test_boxes("foreign", k, random, *op, {&a, &b}, expected, 0);
}

void test_concat(const Kernels& k, Random& random) {
    const int64_t h = random.between(1, 14), w = random.between(1, 14);
    std::vector<Changed> operands;
    std::vector<Piece> pieces;
    std::vector<std::pair<int, int64_t>> sources;  // of every channel
    for (int64_t i = 0, n = random.between(1, 4); i < n; ++i) {
        operands.emplace_back(random, h, w, random.between(1, 40), true);
        const int64_t size = operands.back().whole.channels, parts = random.chance(0.3) ? 20 : 1;
        for (int64_t part = 0, c; part < parts; ++part) {
            c = random.between(0, size - 1);
            pieces.push_back({static_cast<int>(i), parts == 1 ? random.interval(size) : Interval{c, c + 1}});
            for (c = pieces.back().channels.lo; c < pieces.back().channels.hi; ++c)
                sources.emplace_back(i, c);
        }
    }
    for (std::size_t i = 0; i + 1 < pieces.size() && random.chance(0.3); ++i) {  // any order
        std::swap(pieces[i], pieces.back());
        sources.clear();
        for (const Piece& piece : pieces)
            for (int64_t c = piece.channels.lo; c < piece.channels.hi; ++c)
                sources.emplace_back(piece.operand, c);
    }
    // Moving the vector moved what the planes point to not: their memory stays.
    const int64_t channels = static_cast<int64_t>(sources.size());
    const bool scaled = random.chance(0.5);
    std::vector<float> scale, shift;
    if (scaled)
        scale = random.integers(stored_channels(channels)),
        shift = random.integers(stored_channels(channels));
    const auto op = make_concat(pieces, scale, shift);
    prepare(random, *op, operands.size(), channels, true);
    const Tensor expected = Tensor::of(h, w, channels, [&](int64_t y, int64_t x, int64_t n) {
        const double v = operands[sources[n].first].whole.at(y, x, sources[n].second);
        return scaled ? v * scale[n] + shift[n] : v;
    });
    std::vector<const Changed*> pointers;
    for (const Changed& operand : operands) pointers.push_back(&operand);
    test_boxes("concat", k, random, *op, pointers, expected, 0);
}

void test_reindex(const Kernels& k, Random& random) {
    const Changed in(random, random.between(1, 14), random.between(1, 14), random.between(1, 40), true);
    const auto cells = [&](int64_t n_in) {
        std::vector<int64_t> source(random.between(1, 20));
        for (int64_t& cell : source) cell = random.between(-1, n_in - 1);
        return source;
    };
    const std::vector<int64_t> y = cells(in.whole.height), x = cells(in.whole.width);
    const auto op = make_reindex(IndexMap(y, in.whole.height), IndexMap(x, in.whole.width), 7);
    prepare(random, *op, 1, in.whole.channels, false);
    const Tensor expected =
        Tensor::of(y.size(), x.size(), in.whole.channels, [&](int64_t i, int64_t j, int64_t c) {
            return y[i] < 0 || x[j] < 0 ? 7 : in.whole.at(y[i], x[j], c);
        });
    test_boxes("reindex", k, random, *op, {&in}, expected, 0);
}

void test_layer_norm(const Kernels& k, Random& random) {
    const Changed in(random, random.between(1, 14), random.between(1, 14), random.between(1, 40), false);
    const int64_t channels = in.whole.channels;
    const std::vector<float> weight = random.chance(0.5) ? random.numbers(channels) : std::vector<float>();
    const std::vector<float> bias = random.chance(0.5) ? random.numbers(channels) : std::vector<float>();
    const auto op = make_layer_norm(channels, 1e-2f, weight, bias);
    prepare(random, *op, 1, channels, false);
    test_boxes("layer norm", k, random, *op, {&in}, normalised(in.whole, 1e-2, weight, bias), 2e-5);
}

// What an operator says that a change reaches, against which outputs really read a changed cell.
void test_reach(const Kernels& k, Random& random) {
    WindowMap m = window_of(random, random.between(1, 5), random.between(1, 3), random.between(1, 3));
    const Interval changed = random.interval(m.n_in);
    Interval expected;
    for (int64_t o = 0; o < m.n_out; ++o)
        for (int64_t t = 0; t < m.kernel; ++t) {
            const int64_t cell = o * m.stride - m.padding + t * m.dilation;
            if (cell >= changed.lo && cell < changed.hi) expected = join(expected, {o, o + 1});
        }
    const float weight[25] = {};
    const auto op = make_convolution(k, {m, {8, 8, 1, 1, 0, 1}, 1, 1, 1}, weight, nullptr);
    op->operands = {0};
    const Box in{changed, {2, 4}};
    const Box out = op->reach(&in);
    // Outputs whose taps step over the change count as well.
    const bool right = m.dilation > 1     ? join(out.y, expected).size() == out.y.size()
                       : expected.empty() ? out.empty()
                                          : out.y.lo == expected.lo && out.y.hi == expected.hi;
    check(right, "reach of kernel ", m.kernel, " stride ", m.stride, " dilation ", m.dilation, " padding ",
          m.padding, ": [", out.y.lo, ", ", out.y.hi, "), not [", expected.lo, ", ", expected.hi, ")");
}

void test_all(const Kernels& k, int rounds) {
    Random random(2);
    for (int i = 0; i < rounds; ++i) {
        // Those that have tiles of their own, at any size of box.
        for (const auto& [ky, kx] : {std::pair{3, 3}, {5, 5}, {1, 3}, {3, 1}, {1, 5}, {5, 1}, {1, 7}, {7, 1}})
            test_convolution(k, random, ky, kx, 1, 1, "winograd or gemm");
        test_convolution(k, random, 1, 1, 1, 1, "1x1");
        test_convolution(k, random, random.between(1, 7), random.between(1, 4), random.between(1, 4), 1,
                         "strided");
        test_convolution(k, random, random.between(1, 3), random.between(1, 4), random.between(1, 2), 3,
                         "apart");
        test_convolution(k, random, random.between(1, 3), random.between(1, 4), random.between(1, 2), 1,
                         "groups");
        test_convolution(k, random, random.between(1, 5), random.between(1, 5), random.between(1, 3), 1,
                         "depthwise");
        test_pool(k, random, i % 2);
        test_combine(k, random);
        test_foreign(k, random);
        test_concat(k, random);
        test_reindex(k, random);
        test_layer_norm(k, random);
        test_reach(k, random);
    }
}

}  // namespace
}  // namespace krypton::testing

int main(int argc, char** argv) {
    using namespace krypton;
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 200;
    for (const char* const* name = kernel_names(); *name; ++name) testing::test_all(*kernels(*name), rounds);
    return testing::report("operators");
}
