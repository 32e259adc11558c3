// Every operator on boxes of a value whose cells lie in a view or in a changed box, against loops in
// float64 over the whole value.
#include "testing.h"

#include "operators/winograd.h"

namespace krypton::testing {
namespace {

// A value of which a box has changed: the engine sees the view and the box, the loops see what they make.
struct Changed {
    Tensor whole;
    Plane plane;
    std::vector<float> view, pixels;

    Changed(Random& random, const Sizes& sizes, int64_t channels, bool exact)
        : whole(Tensor::of(sizes, channels, [&](const Corner&, int64_t) {
              return exact ? random.small_integer() : random.number();
          })) {
        const int64_t stored = stored_channels(channels);
        plane = {sizes, stored, nullptr, nullptr, {}};
        if (random.chance(0.8)) plane.box = random.box(sizes);
        view = whole.stored();
        for_box(plane.box, [&](const Corner& cell) {
            float* old = view.data() + whole.cells.number(cell) * stored;
            pixels.insert(pixels.end(), old, old + stored);
            std::fill_n(old, stored, 777.0f);  // what is in the box must not be read from the view
        });
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
    Sizes largest{};
    for (int64_t i = 0; i < count; ++i) {
        const Box box = random.chance(0.2) ? expected.cells : random.box(expected.sizes());
        memory.emplace_back(box.cells() * op.stored);
        jobs.push_back({box, memory.back().data(), planes.data()});
        for (Axis axis : kAllAxes) largest[axis] = std::max(largest[axis], box[axis].size());
    }
    // Some bounds are too low, as they are when views are computed.
    const bool foreseen = random.chance(0.8);
    Scratch scratch(foreseen ? op.scratch_bytes(Box::of(largest), count) : random.between(0, 2000));
    op.run(k, jobs.data(), count, scratch);
    check(!foreseen || !scratch.exceeded(), k.name, " ", what, " takes more memory than it says");
    for (const Job& job : jobs) {
        const float* found = job.out;
        for_box(job.box, [&](const Corner& cell) {
            for (int64_t c = 0; c < expected.channels; ++c) {
                const double value =
                    finished(expected.at(cell, c), {op.epilogue.low, op.epilogue.high, kIdentity, 0});
                check(close(found[c], value, tolerance), k.name, " ", what, ": ", cell, " channel ", c,
                      " of ", job.box, " in ", expected.cells, " is ", found[c], ", not ", value);
            }
            found += op.stored;
        });
    }
}

void prepare(Random& random, Operator& op, std::size_t operands, int64_t channels, bool clamps) {
    for (std::size_t i = 0; i < operands; ++i) op.operands.push_back(static_cast<int>(i));
    op.channels = channels;
    op.stored = stored_channels(channels);
    if (clamps && random.chance(0.5)) op.epilogue = {-1, random.chance(0.5) ? 3 : kNoLimit, kIdentity, 0};
}

WindowMap window_of(Random& random, int64_t kernel, int64_t stride, int64_t dilation, int64_t largest) {
    WindowMap m{0, 0, kernel, stride, random.between(0, kernel), dilation};
    const int64_t span = dilation * (kernel - 1) + 1;
    const int64_t least = std::max<int64_t>(1, span - 2 * m.padding);
    m.n_in = random.between(least, std::max(least, largest));
    m.n_out = (m.n_in + 2 * m.padding - span) / stride + 1;
    // As with ceil_mode: the last window may begin in the input and end beyond its padding.
    if (stride > 1 && m.n_out * stride < m.n_in + m.padding && random.chance(0.5)) ++m.n_out;
    return m;
}

// Those of an image, or of a smaller volume with any window in depth.
ByAxis<WindowMap> windows_of(Random& random, int64_t ky, int64_t kx, int64_t stride, int64_t dilation) {
    const bool flat = random.chance(0.5);
    const int64_t largest = flat ? 14 : 8;
    return {flat ? alone()
                 : window_of(random, random.between(1, 3), random.between(1, 3), random.between(1, 2), 6),
            window_of(random, ky, stride, dilation, largest),
            window_of(random, kx, random.between(1, stride), dilation, largest)};
}

void test_convolution(const char* what, const Kernels& k, Random& random, const ConvolutionShape& s) {
    const bool exact = random.chance(0.5), biased = random.chance(0.7), residual = random.chance(0.4);
    const int64_t fan_in = s.in_channels / s.groups * taps_of(s.maps);
    const auto numbers = [&](int64_t n) {
        return exact ? random.integers(n) : random.numbers(n, 1 / std::sqrt(static_cast<float>(fan_in)));
    };
    const std::vector<float> weight = numbers(s.out_channels * fan_in);
    const std::vector<float> bias = biased ? numbers(s.out_channels) : std::vector<float>();
    const Changed in(random, sizes_in(s.maps), s.in_channels, exact);
    const Changed added(random, sizes_out(s.maps), s.out_channels, exact);
    const auto op = make_convolution(k, s, weight.data(), biased ? bias.data() : nullptr);
    prepare(random, *op, residual ? 2 : 1, s.out_channels, true);
    Tensor expected = convolved(in.whole, s, weight, bias);
    if (residual) expected += added.whole;
    // Results are of about `size`; sums of integers are exact but where Winograd's points are none.
    const double size = exact ? 7 * std::sqrt(static_cast<double>(fan_in)) : 1;
    const double tolerance = exact && !has_winograd(s) ? 0 : 2e-5 * size;
    test_boxes(what, k, random, *op, {&in, &added}, expected, tolerance);
}

ConvolutionShape shape_of(Random& random, const ByAxis<WindowMap>& maps) {
    return {maps, random.between(1, 40), random.between(1, 40), 1};
}

// Tiles in stacks: many of them, so that they make several blocks, and everything that depth can have.
void test_stacks(const Kernels& k, Random& random) {
    const auto [ky, kx, stride] = random.choice<std::array<int64_t, 3>>(
        {{3, 3, 1}, {3, 3, 2}, {5, 5, 1}, {1, 3, 1}, {3, 1, 1}, {1, 7, 1}, {7, 1, 1}});
    // With as many outputs as boxes shall have.
    const auto window_to = [&](int64_t outputs, int64_t kernel, int64_t step, int64_t dilation) {
        const int64_t span = (outputs - 1) * step + dilation * (kernel - 1) + 1;
        const int64_t padding = random.between(0, std::min(kernel, (span - 1) / 2));
        return WindowMap{span - 2 * padding, outputs, kernel, step, padding, dilation};
    };
    const ByAxis<WindowMap> maps{window_to(random.between(1, 20), random.choice<int64_t>({1, 2, 3, 5}),
                                           random.between(1, 3), random.between(1, 2)),
                                 window_to(random.between(1, 7), ky, stride, 1),
                                 window_to(random.between(1, 7), kx, stride, 1)};
    const ConvolutionShape shape{maps, random.between(16, 36), random.between(1, 20), 1};
    check(has_winograd(shape), "there are no stacks of tiles for a kernel of ", ky, "x", kx);
    test_convolution("stacks", k, random, shape);
}

void test_convolutions(const Kernels& k, Random& random) {
    // Those that have tiles of their own, at any size of box.
    for (const auto& [ky, kx] : {std::pair{3, 3}, {5, 5}, {1, 3}, {3, 1}, {1, 5}, {5, 1}, {1, 7}, {7, 1}})
        test_convolution("winograd or gemm", k, random, shape_of(random, windows_of(random, ky, kx, 1, 1)));
    test_stacks(k, random);
    test_convolution("1x1", k, random, shape_of(random, windows_of(random, 1, 1, 1, 1)));
    const auto strided =
        windows_of(random, random.between(1, 7), random.between(1, 4), random.between(1, 4), 1);
    test_convolution("strided", k, random, shape_of(random, strided));
    const auto apart =
        windows_of(random, random.between(1, 3), random.between(1, 4), random.between(1, 2), 3);
    test_convolution("apart", k, random, shape_of(random, apart));
    const int64_t groups = random.between(2, 6);
    const auto grouped =
        windows_of(random, random.between(1, 3), random.between(1, 4), random.between(1, 2), 1);
    test_convolution("groups", k, random,
                     {grouped, groups * random.between(1, 7), groups * random.between(1, 7), groups});
    const int64_t channels = random.between(2, 40);
    const auto each = windows_of(random, random.between(1, 5), random.between(1, 5), random.between(1, 3), 1);
    test_convolution("depthwise", k, random, {each, channels, channels, channels});
}

void test_pool(const Kernels& k, Random& random, bool maximum) {
    const auto maps = windows_of(random, random.between(1, 4), random.between(1, 4), random.between(1, 3),
                                 maximum ? random.between(1, 2) : 1);
    const Changed in(random, sizes_in(maps), random.between(1, 40), false);
    ByAxis<std::vector<float>> divisors;
    if (!maximum) divisors = random_divisors(random, sizes_out(maps));
    const auto op = make_pool(maps, maximum, divisors);
    prepare(random, *op, 1, in.whole.channels, false);
    test_boxes("pool", k, random, *op, {&in}, pooled(in.whole, maps, divisors), maximum ? 0 : 1e-5);
}

void test_combine(const Kernels& k, Random& random) {
    const Sizes sizes = random.sizes(14);
    const int64_t c = random.between(1, 40);
    const auto arithmetic = random.choice<Arithmetic>({kAdd, kSubtract, kMultiply, kMaximum, kMinimum});
    const bool two = random.chance(0.6), scaled = random.chance(0.5), sloped = random.chance(0.3);
    const Changed a(random, sizes, c, true), b(random, sizes, c, true);
    std::vector<float> scale, shift, slope;
    if (sloped) slope = random.integers(stored_channels(c));
    if (scaled) scale = random.integers(stored_channels(c)), shift = random.integers(stored_channels(c));
    const auto op = make_combine(arithmetic, scale, shift, slope);
    prepare(random, *op, two ? 2 : 1, c, true);
    const Tensor expected = Tensor::of(sizes, c, [&](const Corner& cell, int64_t n) {
        double v = a.whole.at(cell, n);
        if (two) v = arithmetic_of(arithmetic, v, b.whole.at(cell, n));
        if (scaled) v = v * scale[n] + shift[n];
        return sloped && v < 0 ? v * slope[n] : v;
    });
    test_boxes("combine", k, random, *op, {&a, &b}, expected, 0);
}

// Sums over what the tables of each cell read, and, in one channel more, where the cell is and what the
// second operand adds up to in the first cell read.
void test_foreign(const Kernels& k, Random& random) {
    const Sizes in = random.sizes(10);
    const int64_t c = random.between(1, 20), more = random.between(1, 20);
    const Changed a(random, in, c, true), b(random, in, more, true);
    Resampling sums(random, in);
    for (auto& along : sums.weights) std::ranges::fill(along, 1.0f);
    Sizes taps;
    for (Axis axis : kAllAxes) {
        const int64_t all = std::ssize(sums.weights[axis]);
        taps[axis] = all ? all / sums.sizes[axis] : 1;
    }
    const auto place = [](const Corner& cell) { return 10000 * cell[kZ] + 100 * cell[kY] + cell[kX]; };
    const ByAxis<IntervalMap> maps = sums.maps;
    const auto op = make_foreign(
        maps, {c, more},
        [=](int64_t boxes, const Extents& extents, const Corner* corners, const float* const* in,
            float* out) {
            const Box read = Box::of(extents.read);
            for (int64_t box = 0; box < boxes; ++box) {
                const float* from = in[0] + box * read.cells() * c;
                const float* other = in[1] + box * read.cells() * more;
                for_box(Box::of(extents.made), [&](Corner cell) {
                    Box mine;
                    for (Axis axis : kAllAxes) {
                        const int64_t first = corners[box][axis];
                        cell[axis] += first;
                        mine[axis].lo = maps[axis].first_read(cell[axis]) - maps[axis].first_read(first);
                        mine[axis].hi = mine[axis].lo + taps[axis];
                    }
                    std::fill_n(out, c, 0.0f);
                    for_box(mine, [&](const Corner& tap) {
                        for (int64_t n = 0; n < c; ++n) out[n] += from[read.number(tap) * c + n];
                    });
                    const float* beside = other + read.number(mine.first()) * more;
                    out[c] = std::accumulate(beside, beside + more, static_cast<float>(place(cell)));
                    out += c + 1;
                });
            }
        },
        8);
    prepare(random, *op, 2, c + 1, false);
    const Tensor summed = sums.of(a.whole);
    const Tensor expected = Tensor::of(sums.sizes, c + 1, [&](const Corner& cell, int64_t n) {
        if (n < c) return summed.at(cell, n);
        const Corner first = first_read(maps, cell);
        double sum = static_cast<double>(place(cell));
        for (int64_t m = 0; m < more && b.whole.cells.holds(first); ++m) sum += b.whole.at(first, m);
        return sum;
    });
    check(op->bytes_elsewhere(Box::of({2, 2, 3}), 5) == 480, "bytes elsewhere");
    test_boxes("foreign", k, random, *op, {&a, &b}, expected, 0);
}

void test_concat(const Kernels& k, Random& random) {
    const Sizes sizes = random.sizes(14);
    std::vector<Changed> operands;
    std::vector<Piece> pieces;
    std::vector<std::pair<int, int64_t>> sources;  // of every channel
    for (int64_t i = 0, n = random.between(1, 4); i < n; ++i) {
        operands.emplace_back(random, sizes, random.between(1, 40), true);
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
    const Tensor expected = Tensor::of(sizes, channels, [&](const Corner& cell, int64_t n) {
        const double v = operands[sources[n].first].whole.at(cell, sources[n].second);
        return scaled ? v * scale[n] + shift[n] : v;
    });
    std::vector<const Changed*> pointers;
    for (const Changed& operand : operands) pointers.push_back(&operand);
    test_boxes("concat", k, random, *op, pointers, expected, 0);
}

void test_reindex(const Kernels& k, Random& random) {
    const Changed in(random, random.sizes(14), random.between(1, 40), true);
    ByAxis<std::vector<int64_t>> sources;
    for (Axis axis : kAllAxes) {
        sources[axis].resize(axis == kZ ? random.deep(6) : random.between(1, 20));
        for (int64_t& cell : sources[axis]) cell = random.between(-1, in.plane.sizes[axis] - 1);
    }
    const auto op = make_reindex(index_maps(sources, in.plane.sizes), 7);
    prepare(random, *op, 1, in.whole.channels, false);
    test_boxes("reindex", k, random, *op, {&in}, reindexed(in.whole, sources, 7), 0);
}

void test_resample(const Kernels& k, Random& random) {
    const Changed in(random, random.sizes(10), random.between(1, 40), true);
    const Resampling resampling(random, in.plane.sizes);
    const auto op = make_resample(resampling.maps, resampling.weights);
    prepare(random, *op, 1, in.whole.channels, false);
    test_boxes("resample", k, random, *op, {&in}, resampling.of(in.whole), 0);
}

void test_interleave(const Kernels& k, Random& random) {
    const Interleaving by(random);
    const int64_t channels = random.between(1, 20);
    const Changed in(random, random.sizes(6), channels * cells_of(by.cells), true);
    const auto op = make_interleave(in.plane.sizes, by.cells, by.by_channel(), by.by_cell(channels));
    prepare(random, *op, 1, channels, false);
    test_boxes("interleave", k, random, *op, {&in}, by.of(in.whole), 0);
}

void test_layer_norm(const Kernels& k, Random& random) {
    const Changed in(random, random.sizes(14), random.between(1, 40), false);
    const int64_t channels = in.whole.channels;
    const std::vector<float> weight = random.chance(0.5) ? random.numbers(channels) : std::vector<float>();
    const std::vector<float> bias = random.chance(0.5) ? random.numbers(channels) : std::vector<float>();
    const auto op = make_layer_norm(channels, 1e-2f, weight, bias);
    prepare(random, *op, 1, channels, false);
    test_boxes("layer norm", k, random, *op, {&in}, normalised(in.whole, 1e-2, weight, bias), 2e-5);
}

// What an operator says that a change reaches, against which windows really cover a changed cell, or the
// middle of them where those are more than a limit.
void test_reach(const Kernels& k, Random& random) {
    ByAxis<WindowMap> maps;
    for (WindowMap& m : maps) {
        m = window_of(random, random.between(1, 5), random.between(1, 3), random.between(1, 3), 14);
        if (random.chance(0.3)) m.limit = random.between(1, 6);
    }
    const Box changed = random.box(sizes_in(maps));
    Box expected;
    for (Axis axis : kAllAxes) {
        const WindowMap& m = maps[axis];
        Interval& along = expected[axis];
        for (int64_t o = 0; o < m.n_out; ++o) {
            const int64_t first = o * m.stride - m.padding, last = first + (m.kernel - 1) * m.dilation;
            if (first < changed[axis].hi && last >= changed[axis].lo) along = join(along, {o, o + 1});
        }
        if (along.size() <= m.limit) continue;
        along.lo += (along.size() - m.limit) / 2;
        along.hi = along.lo + m.limit;
    }
    const std::vector<float> weight(taps_of(maps));
    const auto op = make_convolution(k, {maps, 1, 1, 1}, weight.data(), nullptr);
    op->operands = {0};
    const Box found = op->reach(&changed);
    check(same(found, expected), "reach of ", changed, ": ", found, ", not ", expected);
}

void test_all(const Kernels& k, int rounds) {
    Random random(2);
    for (int i = 0; i < rounds; ++i) {
        test_convolutions(k, random);
        test_pool(k, random, i % 2);
        test_combine(k, random);
        test_foreign(k, random);
        test_concat(k, random);
        test_reindex(k, random);
        test_resample(k, random);
        test_interleave(k, random);
        test_layer_norm(k, random);
        test_reach(k, random);
    }
}

}  // namespace
}  // namespace krypton::testing

int main(int argc, char** argv) {
    using namespace krypton;
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 60;
    for (const char* const* name = kernel_names(); *name; ++name) testing::test_all(*kernels(*name), rounds);
    return testing::report("operators");
}
