// Global values, where cells meet them, and what that leaves out: operators and a session against loops in
// float64. Runs `gates_test [rounds]`.
#include <memory>

#include "outside.h"
#include "session.h"
#include "testing.h"

namespace krypton::testing {
namespace {

// An image of which a box has changed, in both states.
struct Picture {
    Tensor before, now;
    Box box;
    std::vector<float> view, pixels;

    explicit Picture(Random& random) : Picture(random, random.sizes(14), random.between(1, 40)) {}
    Picture(Random& random, const Sizes& sizes, int64_t channels)
        : before(random_image(random, sizes, channels)), now(before), box(random.box(sizes)) {
        for (double& x : before.data) x += 5;  // far from 0, where squares cancel
        now = before;
        for_box(box, [&](const Corner& cell) {
            for (int64_t c = 0; c < channels; ++c) now.at(cell, c) = random.number();
        });
        view = before.stored();
        const std::vector<float> all = now.stored();
        const int64_t stored = stored_channels(channels);
        for_box(box, [&](const Corner& cell) {
            const auto pixel = all.begin() + now.cells.number(cell) * stored;
            pixels.insert(pixels.end(), pixel, pixel + stored);
        });
    }
    Plane plane(bool changed) const {
        return {before.sizes(), stored_channels(before.channels), view.data(), pixels.data(),
                changed ? box : Box{}};
    }
};

// By channel: the mean, then the variance.
std::vector<double> moments_of(const Tensor& t) {
    const double cells = static_cast<double>(t.cells.cells());
    std::vector<double> found(2 * t.channels);
    for (std::size_t i = 0; i < t.data.size(); ++i) found[i % t.channels] += t.data[i] / cells;
    for (std::size_t i = 0; i < t.data.size(); ++i)
        found[t.channels + i % t.channels] += std::pow(t.data[i] - found[i % t.channels], 2) / cells;
    return found;
}

std::vector<float> computed(const Kernels& k, const Operator& op, const Plane& in, const float* base) {
    std::vector<float> out(op.stored, 777.0f);
    const Job job{one_cell(), out.data(), &in, base};
    Scratch scratch(op.scratch_bytes(one_cell(), 1));
    op.run(k, &job, 1, scratch);
    check(!scratch.exceeded(), k.name, ": a total takes more memory than it says");
    return out;
}

void test_moments(const Kernels& k, Random& random) {
    const Picture picture(random);
    const int64_t channels = picture.now.channels, stored = stored_channels(channels);
    const bool variance = random.chance(0.7);
    const auto op = make_moments(picture.now.cells.cells(), variance);
    op->operands = {0};
    op->stored = variance ? 2 * stored : stored;
    const std::vector<float> base = computed(k, *op, picture.plane(false), nullptr),
                             changed = computed(k, *op, picture.plane(true), base.data());
    for (const auto& [found, whole] :
         {std::pair(base, moments_of(picture.before)), {changed, moments_of(picture.now)}})
        for (int64_t c = 0; c < channels; ++c) {
            check(close(found[c], whole[c], 2e-6), k.name, ": mean ", found[c], ", not ", whole[c]);
            if (!variance) continue;
            const double expected = whole[channels + c];
            check(close(found[stored + c], expected, 2e-5), k.name, ": variance ", found[stored + c],
                  ", not ", expected);
        }
}

void test_euclidean_norm(const Kernels& k, Random& random) {
    const Picture picture(random);
    const int64_t channels = picture.now.channels, cells = picture.now.cells.cells();
    const auto op = make_euclidean_norm(cells);
    op->operands = {0};
    op->stored = stored_channels(channels);
    const std::vector<float> base = computed(k, *op, picture.plane(false), nullptr),
                             changed = computed(k, *op, picture.plane(true), base.data());
    for (const auto& [found, image] : {std::pair(base, picture.before), {changed, picture.now}}) {
        std::vector<double> squares(channels);
        for (std::size_t i = 0; i < image.data.size(); ++i)
            squares[i % channels] += image.data[i] * image.data[i] / static_cast<double>(cells);
        for (int64_t c = 0; c < channels; ++c) {
            const double mean = found[c] / std::sqrt(cells), expected = std::sqrt(squares[c]);
            check(close(mean, expected, 2e-6), k.name, ": Euclidean norm of ", expected, ", not ", mean,
                  " a cell");
        }
    }
}

void test_largest(const Kernels& k, Random& random) {
    const Picture picture(random);
    const int64_t channels = picture.now.channels;
    const auto op = make_largest(picture.now.cells.cells());
    op->operands = {0};
    op->stored = stored_channels(channels);
    const std::vector<float> base = computed(k, *op, picture.plane(false), nullptr),
                             changed = computed(k, *op, picture.plane(true), base.data());
    for (const auto& [found, image] : {std::pair(base, picture.before), {changed, picture.now}}) {
        std::vector<double> largest(channels, -1e9);
        for (std::size_t i = 0; i < image.data.size(); ++i)
            largest[i % channels] = std::max<double>(largest[i % channels], image.data[i]);
        for (int64_t c = 0; c < channels; ++c)
            check(close(found[c], largest[c], 1e-6), k.name, ": largest ", found[c], ", not ", largest[c]);
    }
}

void test_norm(const Kernels& k, Random& random) {
    const int64_t groups = random.between(1, 4), channels = groups * random.between(1, 10);
    const int64_t stored = stored_channels(channels);
    const Tensor image = random_image(random, random.sizes(9), channels);
    const bool affine = random.chance(0.5);
    const std::vector<float> weight = affine ? random.numbers(channels) : std::vector<float>(),
                             bias = affine ? random.numbers(channels) : std::vector<float>();
    const std::vector<double> moments = moments_of(image);
    std::vector<float> in(2 * stored);
    for (int64_t c = 0; c < channels; ++c) {
        in[c] = static_cast<float>(moments[c]);
        in[stored + c] = static_cast<float>(moments[channels + c]);
    }
    const auto op = make_norm(channels, groups, 0.01f, weight, bias);
    op->operands = {0};
    op->stored = 2 * stored;
    const std::vector<float> found =
        computed(k, *op, {{1, 1, 1}, 2 * stored, in.data(), nullptr, {}}, nullptr);
    // A group's cells and channels side by side are a pixel of a norm over channels.
    const int64_t cells = image.cells.cells(), size = channels / groups;
    for (int64_t g = 0; g < groups; ++g) {
        Tensor row({1, 1, 1}, cells * size);
        for (int64_t i = 0; i < cells; ++i)
            for (int64_t c = 0; c < size; ++c)
                row.data[i * size + c] = image.data[i * channels + g * size + c];
        const Tensor expected = normalised(row, 0.01, {}, {});
        for (int64_t i = 0; i < cells * size; ++i) {
            const int64_t c = g * size + i % size;
            const double value = affine ? expected.data[i] * weight[c] + bias[c] : expected.data[i];
            check(close(row.data[i] * found[c] + found[stored + c], value, 1e-4), k.name, ": norm of ",
                  row.data[i], " is not ", value);
        }
    }
}

double met(Meeting meeting, double x, const std::vector<float>& with, int64_t c) {
    if (meeting == Meeting::kBoth) return x * with[c] + with[with.size() / 2 + c];
    return meeting == Meeting::kFactor ? x * with[c] : x + with[c];
}

// On a box, and the effect outside it: what both make of a scalar that is linear in the mere meeting.
void test_meeting(const Kernels& k, Random& random) {
    const Picture picture(random);
    const Tensor& image = picture.now;
    const int64_t channels = image.channels, stored = stored_channels(channels);
    const auto meeting = random.choice<Meeting>({Meeting::kFactor, Meeting::kSummand, Meeting::kBoth});
    const int64_t elements = meeting == Meeting::kBoth ? 2 * stored : stored;
    const std::vector<float> before = random.numbers(elements), now = random.numbers(elements);
    const bool scaled = random.chance(0.5), adds_image = random.chance(0.5);
    const std::vector<float> scale = scaled ? random.numbers(stored) : std::vector<float>(),
                             shift = scaled ? random.numbers(stored) : std::vector<float>();
    const auto op = make_meeting(meeting, scale, shift, adds_image);
    op->operands = {0, 1};
    op->stored = stored;
    op->epilogue = {random.chance(0.5) ? 0 : -kNoLimit, kNoLimit, kIdentity, 0};
    check(op->met() == 1, "a meeting meets its second operand");
    const Plane in[] = {picture.plane(true), {{1, 1, 1}, elements, before.data(), now.data(), one_cell()}};
    const Box reached[] = {picture.box, one_cell()}, box = op->reach(reached);
    std::vector<float> out(box.cells() * stored);
    const Job job{box, out.data(), in, nullptr};
    Scratch scratch(op->scratch_bytes(box, 1));
    op->run(k, &job, 1, scratch);
    check(!scratch.exceeded(), k.name, ": a meeting takes more memory than it says");

    const Tensor gradient = random_image(random, image.sizes(), channels);
    double expected = 0;
    for_box(image.cells, [&](const Corner& cell) {
        for (int64_t c = 0; c < channels; ++c) {
            const double x = image.at(cell, c), value = met(meeting, x, now, c);
            if (!box.holds(cell)) {
                expected += gradient.at(cell, c) * (value - met(meeting, x, before, c));
                continue;
            }
            const double followed = (scaled ? value * scale[c] + shift[c] : value) + (adds_image ? x : 0.0);
            const float found = out[box.number(cell) * stored + c];
            check(close(found, finished(followed, op->epilogue), 1e-5), k.name, ": a cell that meets ",
                  now[c], " is ", found, ", not ", followed);
        }
    });
    const Outside outside(*op, picture.plane(false), gradient.stored(), elements);
    const double found = outside.effect(box, now.data(), before.data());
    check(close(found, expected, 1e-4), "effect ", found, ", not ", expected);
    // An empty box leaves out everything: as one that begins anywhere.
    Box nothing = box;
    nothing[kZ].hi = nothing[kZ].lo;
    const double all = outside.effect({}, now.data(), before.data());
    const double same = outside.effect(nothing, now.data(), before.data());
    check(all == same, "empty boxes differ");
}

// image -> convolution -> its mean -> linear, sigmoid -> gate on the convolution -> mean: positions against
// float64 loops that leave the gate outside the box as it was, and the scalar's change by what that leaves
// out.
void test_session(const char* isa, const Sizes& sizes) {
    Random random(11);
    constexpr int64_t kIn = 3, kChannels = 24;
    constexpr Sizes kOne = {1, 1, 1};
    auto program = std::make_shared<Program>(isa, sizes, kIn);
    const Kernels& k = program->kernels();
    const ByAxis<WindowMap> maps = same_sizes(sizes);
    const ByAxis<WindowMap> one{alone(), alone(), alone()};
    const auto first = random.numbers(kChannels * kIn * taps_of(maps), 0.15f),
               weight = random.numbers(kChannels * kChannels, 0.5f), bias = random.numbers(kChannels);
    const ConvolutionShape shape{maps, kIn, kChannels, 1};
    program->add(make_convolution(k, shape, first.data(), nullptr), {0}, sizes, kChannels, {0});
    program->add(make_moments(cells_of(sizes), false), {1}, kOne, kChannels, {});
    program->add(make_convolution(k, {one, kChannels, kChannels, 1}, weight.data(), bias.data()), {2}, kOne,
                 kChannels, {-kNoLimit, kNoLimit, kSigmoid});
    program->add(make_meeting(Meeting::kFactor), {1, 3}, sizes, kChannels, {});
    check(program->values()[3].global && !program->values()[4].global, "which values are global");
    program->add_mean(4, {});

    const Tensor input = random_image(random, sizes, kIn), gradient = random_image(random, sizes, kChannels);
    const auto gate = [&](const Tensor& hidden) {
        const auto mean = moments_of(hidden);
        std::vector<double> found(kChannels);
        for (int64_t o = 0; o < kChannels; ++o) {
            double sum = bias[o];
            for (int64_t c = 0; c < kChannels; ++c) sum += weight[o * kChannels + c] * mean[c];
            found[o] = function_of(kSigmoid, sum, 0);
        }
        return found;
    };
    const auto hidden_of = [&](const Tensor& x) {
        Tensor hidden = convolved(x, shape, first, {});
        for (double& v : hidden.data) v = std::max(v, 0.0);
        return hidden;
    };
    const Tensor hidden = hidden_of(input);
    const auto usual = gate(hidden);

    std::vector<Occlusion> positions;
    for (int i = 0; i < 40; ++i) positions.push_back({random.box(sizes), {0, kIn}});
    const Box all = Box::of(sizes);
    const std::vector<Box> extents = {all, all, one_cell(), one_cell(), all};
    const std::vector<float> x = input.plain(), nothing(x.size());
    const Session session(program, extents, {3}, {}, x.data(), nothing.data(), 2, {},
                          {{4, gradient.stored()}});
    const int64_t n = static_cast<int64_t>(positions.size());
    std::vector<float> rows(n * kChannels), gates(n * kChannels);
    std::vector<double> effects(n);
    const std::vector<Corner> corners(n);
    check(session.run(positions, {{3, corners.data(), kOne, gates.data()}}, {{0, rows.data()}},
                      effects.data(), {}),
          isa, ": cancelled");
    for (int64_t p = 0; p < n; ++p) {
        Tensor occluded = input;
        const Box& at = positions[p].box;
        for_box(at, [&](const Corner& cell) {
            for (int64_t c = 0; c < kIn; ++c) occluded.at(cell, c) = 0;
        });
        const Tensor changed = hidden_of(occluded);
        const auto now = gate(changed);
        const Box box = changed_by(maps, at);
        std::vector<double> mean(kChannels);
        double effect = 0;
        for_box(all, [&](const Corner& cell) {
            for (int64_t c = 0; c < kChannels; ++c) {
                const double v = changed.at(cell, c);
                mean[c] += v * (box.holds(cell) ? now : usual)[c] / static_cast<double>(all.cells());
                if (!box.holds(cell)) effect += gradient.at(cell, c) * v * (now[c] - usual[c]);
            }
        });
        for (int64_t c = 0; c < kChannels; ++c) {
            check(close(gates[p * kChannels + c], now[c], 1e-5), isa, ": gate ", gates[p * kChannels + c],
                  ", not ", now[c]);
            check(close(rows[p * kChannels + c], mean[c], 1e-5), isa, ": mean ", rows[p * kChannels + c],
                  ", not ", mean[c]);
        }
        check(close(effects[p], effect, 1e-3), isa, ": effect ", effects[p], ", not ", effect);
    }
}

// Few numbers go through their operators in the chunks that the images around them have.
void test_layout() {
    constexpr Sizes kSizes = {1, 32, 32};
    Program program("", kSizes, 16);
    program.add(make_moments(cells_of(kSizes), false), {0}, {1, 1, 1}, 16, {});
    program.add(make_meeting(Meeting::kFactor), {0, 1}, kSizes, 16, {});
    const Box all = Box::of(kSizes);
    const Layout layout = lay_out(program, {all, one_cell(), all}, {});
    check(layout.segments.size() == 2 && layout.segments[0].chunk == 1 && layout.segments[1].first == 1,
          "chunks");
    check(program.outside_bytes() == Outside::bytes(kSizes, 16), "bytes of what is left out");
}

}  // namespace
}  // namespace krypton::testing

int main(int argc, char** argv) {
    using namespace krypton;
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 200;
    testing::test_layout();
    for (const char* const* isa = kernel_names(); *isa; ++isa) {
        testing::Random random(4);
        for (int i = 0; i < rounds; ++i) {
            testing::test_moments(*kernels(*isa), random);
            testing::test_euclidean_norm(*kernels(*isa), random);
            testing::test_largest(*kernels(*isa), random);
            testing::test_norm(*kernels(*isa), random);
            testing::test_meeting(*kernels(*isa), random);
        }
        testing::test_session(*isa, {1, 18, 18});
        testing::test_session(*isa, {3, 11, 10});
    }
    return testing::report("gates");
}
