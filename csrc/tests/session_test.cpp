// Random programs over random positions, against loops in float64 and against sessions on inputs that really
// are occluded; shrinking in a session; cancelling. Runs `session_test [rounds] [seed]`.
#include "networks.h"
#include "session.h"

#include <chrono>
#include <memory>
#include <stdexcept>

namespace krypton::testing {
namespace {

// The largest boxes that the positions make.
std::vector<Box> extents_of(const Program& program, const std::vector<Occlusion>& positions) {
    std::vector<Box> extents(program.values().size());
    for (const Occlusion& at : positions) {
        std::vector<Box> boxes(program.values().size());
        boxes[0] = at.box;
        for (const auto& op : program.operators()) {
            std::vector<Box> in;
            for (int v : op->operands) in.push_back(boxes[v]);
            boxes[op->value] = op->reach(in.data());
        }
        for (std::size_t v = 0; v < boxes.size(); ++v)
            for (Axis axis : kAllAxes)
                extents[v][axis].hi = std::max(extents[v][axis].hi, boxes[v][axis].size());
    }
    return extents;
}

struct Outputs {
    std::vector<std::vector<Corner>> corners;
    std::vector<std::vector<float>> values, rows;
    std::vector<Exit> exits;
    std::vector<RowExit> row_exits;

    Outputs(Random& random, const Program& program, const std::vector<int>& kept, int64_t positions) {
        // Vectors of vectors: memory stays where it is once they have their length.
        corners.resize(kept.size());
        values.resize(kept.size());
        rows.resize(program.layers().size());
        for (std::size_t i = 0; i < kept.size(); ++i) {
            const Value& v = program.values()[kept[i]];
            Sizes sizes;
            corners[i].resize(positions);
            for (Axis axis : kAllAxes) {
                sizes[axis] = random.between(1, v.sizes[axis]);
                for (Corner& corner : corners[i])
                    corner[axis] = random.between(0, v.sizes[axis] - sizes[axis]);
            }
            values[i].resize(positions * cells_of(sizes) * v.channels);
            exits.push_back({kept[i], corners[i].data(), sizes, values[i].data()});
        }
        for (std::size_t l = 0; l < rows.size(); ++l) {
            rows[l].resize(positions * program.layers()[l].size);
            row_exits.push_back({static_cast<int>(l), rows[l].data()});
        }
    }
};

// Of position p, against float64.
void compare(const char* what, int64_t seed, const Net& net, const Outputs& outputs, int64_t p,
             const Tensor& occluded) {
    const auto values = net.values(occluded);
    const auto rows = net.rows(values);
    // A wrong cell is off by about as much as values differ; rounding is far below.
    const auto tolerance = [](const std::vector<double>& all) {
        double largest = 1;
        for (double x : all) largest = std::max(largest, std::abs(x));
        return 2e-4 * largest;
    };
    for (const Exit& exit : outputs.exits) {
        const Tensor& expected = values[exit.value];
        const double most = tolerance(expected.data);
        const float* found = exit.out + p * cells_of(exit.sizes) * expected.channels;
        Box box;
        for (Axis axis : kAllAxes) {
            const int64_t first = exit.corners[p][axis];
            box[axis] = {first, first + exit.sizes[axis]};
        }
        for_box(box, [&](const Corner& cell) {
            for (int64_t c = 0; c < expected.channels; ++c, ++found)
                check(close(*found, expected.at(cell, c), most), what, ", seed ", seed, ": value ",
                      exit.value, " of position ", p, " at ", cell, " channel ", c, ": ", *found, ", not ",
                      expected.at(cell, c));
        });
    }
    for (const RowExit& row : outputs.row_exits) {
        const auto& expected = rows[row.layer];
        const double most = tolerance(expected);
        for (std::size_t n = 0; n < expected.size(); ++n) {
            const float found = row.out[p * static_cast<int64_t>(expected.size()) + n];
            check(close(found, expected[n], most), what, ", seed ", seed, ": layer ", row.layer,
                  " of position ", p, ", number ", n, ": ", found, ", not ", expected[n]);
        }
    }
}

Tensor occlude(const Tensor& input, const Tensor& baseline, const Occlusion& at) {
    return Tensor::of(input.sizes(), input.channels, [&](const Corner& cell, int64_t c) {
        if (!at.box.holds(cell) || c < at.channels.lo || c >= at.channels.hi) return input.at(cell, c);
        if (!at.contents) return baseline.at(cell, c);
        return double{at.contents[at.box.number(cell) * at.channels.size() + c - at.channels.lo]};
    });
}

// A change of some cells of an image: to the baseline, or to numbers that `room` goes on to hold.
Occlusion random_change(Random& random, const Value& in, std::vector<std::vector<float>>& room) {
    Occlusion at{random.box(in.sizes), random.interval(in.channels)};
    if (random.chance(0.1)) at.box = Box::of(in.sizes);
    Interval& along = at.box[random.choice<Axis>({kZ, kY, kX})];
    if (random.chance(0.1)) along.hi = along.lo;
    if (random.chance(0.1)) at.channels.hi = at.channels.lo;
    if (random.chance(0.5)) {
        room.push_back(random.numbers(at.box.cells() * at.channels.size() + 1));
        at.contents = room.back().data();
    }
    return at;
}

// Walks of several steps each, some taken together or only looked at, some begun where others stand, against
// float64 on the inputs that they have come to.
void test_random_walks(const char* isa, int64_t seed) {
    Random random(seed);
    const Net net = Builder(random, isa, random.chance(0.8) ? 14 : 40).build();
    const Program& program = *net.program;
    const Value& in = program.values()[0];
    const Tensor input = random_image(random, in.sizes, in.channels),
                 baseline = random_image(random, in.sizes, in.channels);
    const std::vector<bool> read = read_elsewhere(program, {});
    std::vector<int> kept;
    for (std::size_t v = 0; v < read.size(); ++v)
        if (program.values()[v].constant.empty() && read[v]) kept.push_back(static_cast<int>(v));
    std::vector<Box> extents;
    for (const Value& v : program.values()) extents.push_back(Box::of(v.sizes));
    const std::vector<float> x = input.plain(), b = baseline.plain();
    const int threads = static_cast<int>(random.between(1, 3));
    Session session(net.program, extents, kept, {}, x.data(), b.data(), threads, {});
    std::vector<Tensor> now;
    for (int64_t i = 0, n = random.between(1, 5); i < n; ++i) {
        const bool other = random.chance(0.5);
        now.push_back(other ? random_image(random, in.sizes, in.channels) : input);
        session.begin(other ? now.back().plain().data() : nullptr, {});
    }
    std::vector<std::vector<float>> room;
    for (int64_t step = 0, steps = random.between(1, 5); step < steps; ++step) {
        const auto any = [&] { return static_cast<int>(random.between(0, std::ssize(now) - 1)); };
        if (random.chance(0.3)) {
            const int source = any();
            now.push_back(now[source]);
            check(session.branch(source) == std::ssize(now) - 1, "seed ", seed, ": number of a branch");
        }
        if (random.chance(0.3)) {
            const int source = any(), into = any();
            now[into] = now[source];
            session.branch(source, into);
        }
        std::vector<int> walks;
        std::vector<Occlusion> changes;
        std::vector<Tensor> after;
        const bool settles = random.chance(0.5);
        for (int w = 0; w < std::ssize(now); ++w) {
            // Several looks at once may leave from one walk.
            for (int64_t n = random.between(0, settles ? 1 : 3); n > 0; --n) {
                walks.push_back(w);
                changes.push_back(random_change(random, in, room));
                after.push_back(occlude(now[w], baseline, changes.back()));
            }
        }
        Outputs outputs(random, program, kept, std::ssize(walks));
        check(session.step(walks, settles, changes, outputs.exits, outputs.row_exits, {}), "seed ", seed,
              ": a walk was cancelled by nobody");
        for (int i = 0; i < std::ssize(walks); ++i) {
            compare(settles ? "walk" : "look", seed, net, outputs, i, after[i]);
            if (settles) now[walks[i]] = after[i];
        }
    }
    // What the session itself was opened on has not changed.
    const std::vector<Occlusion> nothing(1);
    Outputs outputs(random, program, kept, 1);
    session.run(nothing, outputs.exits, outputs.row_exits, nullptr, {});
    compare("beside walks", seed, net, outputs, 0, input);
}

void test_random_program(const char* isa, int64_t seed) {
    Random random(seed);
    // Large values make chunks of several sizes, hence several segments.
    const Net net = Builder(random, isa, random.chance(0.8) ? 14 : 40).build();
    const Program& program = *net.program;
    const Value& in = program.values()[0];
    const Tensor input = random_image(random, in.sizes, in.channels),
                 baseline = random_image(random, in.sizes, in.channels);

    std::vector<Occlusion> positions;
    std::vector<std::vector<float>> room;
    for (int64_t i = 0, n = random.chance(0.1) ? 0 : random.between(1, random.chance(0.2) ? 40 : 6); i < n;
         ++i) {
        if (!positions.empty() && random.chance(0.2)) {
            positions.push_back(random.choice(positions));
            continue;
        }
        positions.push_back(random_change(random, in, room));
    }
    std::vector<int> kept;
    for (std::size_t v = 0; v < program.values().size(); ++v)
        if (program.values()[v].constant.empty() && random.chance(0.5)) kept.push_back(static_cast<int>(v));
    const std::vector<Box> exact = extents_of(program, positions);
    std::vector<Box> extents = exact;
    for (std::size_t v = 0; v < extents.size(); ++v)
        if (random.chance(0.3)) extents[v] = Box::of(program.values()[v].sizes);
    const int threads = static_cast<int>(random.between(1, 4));
    const std::vector<float> x = input.plain(), b = baseline.plain();
    const Session session(net.program, extents, kept, {}, x.data(), b.data(), threads, {});

    Outputs base(random, program, kept, 1);
    session.base(base.exits, base.row_exits);
    compare("base", seed, net, base, 0, input);

    const int64_t n = static_cast<int64_t>(positions.size());
    Outputs outputs(random, program, kept, n);
    int64_t polls = random.between(0, 3);
    const bool cancels = random.chance(0.2);
    const bool done = session.run(positions, outputs.exits, outputs.row_exits, nullptr,
                                  [&] { return cancels && polls-- <= 0; });
    check(done || cancels, "seed ", seed, ": cancelled by nobody");
    if (!done) return;
    for (int64_t p = 0; p < n; ++p)
        compare("run", seed, net, outputs, p, occlude(input, baseline, positions[p]));

    // The same kernels on an input that is occluded from the first.
    if (n) {
        const int64_t p = random.between(0, n - 1);
        const std::vector<float> other = occlude(input, baseline, positions[p]).plain();
        const Session fresh(net.program, extents, kept, {}, other.data(), b.data(), threads, {});
        Outputs whole(random, program, {}, 1);
        fresh.base({}, whole.row_exits);
        for (std::size_t l = 0; l < whole.rows.size(); ++l)
            for (std::size_t i = 0; i < whole.rows[l].size(); ++i) {
                const float found = outputs.rows[l][p * whole.rows[l].size() + i],
                            expected = whole.rows[l][i];
                check(close(found, expected, 1e-4 * (1 + std::abs(expected))), "seed ", seed, ": layer ", l,
                      " of position ", p, " is ", found, ", and ", expected, " from the start");
            }
    }

    // A box that is larger than was said is an error, not memory of somebody else.
    std::vector<int> shrinkable;
    for (std::size_t v = 0; v < exact.size(); ++v)
        if (!exact[v].empty() && program.values()[v].constant.empty())
            shrinkable.push_back(static_cast<int>(v));
    if (shrinkable.empty()) return;
    std::vector<Box> small = exact;
    small[random.choice(shrinkable)][random.choice<Axis>({kZ, kY, kX})].hi -= 1;
    const Session cramped(net.program, small, kept, {}, x.data(), b.data(), threads, {});
    bool refused = false;
    try {
        cramped.run(positions, outputs.exits, outputs.row_exits, nullptr, {});
    } catch (const std::invalid_argument&) {
        refused = true;
    }
    check(refused, "seed ", seed, ": a box larger than its extent");
}

// In a session: a threshold of nothing, and one that no change reaches, which leaves what is un-occluded and
// the whole first-order effect.
void test_shrinking(const char* isa, const Sizes& sizes) {
    Random random(3);
    auto program = std::make_shared<Program>(isa, sizes, 3);
    const ByAxis<WindowMap> maps = same_sizes(sizes);
    const int64_t taps = taps_of(maps);
    const std::vector<float> first = random.numbers(24 * 3 * taps, 0.15f),
                             weight = random.numbers(24 * 24 * taps, 0.07f);
    program->add(make_convolution(program->kernels(), {maps, 3, 24, 1}, first.data(), nullptr), {0}, sizes,
                 24, {0});
    program->add(make_convolution(program->kernels(), {maps, 24, 24, 1}, weight.data(), nullptr), {1}, sizes,
                 24, {0});
    program->add_mean(2, {});
    const Tensor input = random_image(random, sizes, 3), baseline(sizes, 3);
    const std::vector<float> a = input.plain(), b = baseline.plain();
    std::vector<Occlusion> positions;
    for (int i = 0; i < 30; ++i) positions.push_back({random.box(sizes), {0, 3}});
    const std::vector<Box> extents = extents_of(*program, positions);
    const std::vector<float> gradient = random.numbers(cells_of(sizes) * stored_channels(24));
    const auto rows = [&](std::vector<Shrink> shrinks, std::vector<double>& effects) {
        const Session session(program, extents, {1}, std::move(shrinks), a.data(), b.data(), 2, {});
        std::vector<float> out(positions.size() * 24);
        effects.resize(positions.size());
        check(session.run(positions, {}, {{0, out.data()}}, effects.data(), {}), isa, ": cancelled");
        return out;
    };
    std::vector<double> none, nothing, all;
    const auto exact = rows({}, none);
    check(rows({{}, {0, gradient}, {}}, nothing) == exact, isa, ": a threshold of 0 changes something");
    const auto same = rows({{}, {1e9f, gradient}, {}}, all);
    for (std::size_t i = 0; i < same.size(); ++i)
        check(same[i] == same[i % 24], isa, ": something is left of what was dropped");
    const Session session(program, extents, {1}, {}, a.data(), b.data(), 2, {});
    const std::vector<Corner> corners(positions.size());
    const std::size_t size = cells_of(sizes) * 24;
    std::vector<float> changed(positions.size() * size), view(size);
    session.base({{1, corners.data(), sizes, view.data()}}, {});
    session.run(positions, {{1, corners.data(), sizes, changed.data()}}, {}, nullptr, {});
    for (std::size_t p = 0; p < positions.size(); ++p) {
        double expected = 0;
        for (std::size_t i = 0; i < size; ++i)
            expected += gradient[i / 24 * stored_channels(24) + i % 24] *
                        (double{changed[p * size + i]} - double{view[i]});
        check(none[p] == 0 && nothing[p] == 0, isa, ": an effect of nothing");
        check(close(all[p], expected, 1e-3), isa, ": effect ", all[p], ", not ", expected);
    }
}

// What a run says that it cost: cells as boxes have them, and outputs as without.
void test_costs(const char* isa) {
    Random random(5);
    constexpr Sizes kSizes = {4, 24, 24}, kHalves = {2, 12, 12};
    ByAxis<WindowMap> halved;
    for (Axis axis : kAllAxes) halved[axis] = {kSizes[axis], kHalves[axis], 2, 2, 0, 1};
    auto program = std::make_shared<Program>(isa, kSizes, 3);
    const std::vector<float> weight = random.numbers(8 * 3 * 27);
    program->add(make_convolution(program->kernels(), {same_sizes(kSizes), 3, 8, 1}, weight.data(), nullptr),
                 {0}, kSizes, 8, {});
    program->add(make_pool(halved, true, {}), {1}, kHalves, 8, {});
    program->add_mean(2, {});
    program->add_dense(0, 5, random.numbers(5 * 8).data(), nullptr, {});
    const std::vector<float> input = random.numbers(cells_of(kSizes) * 3), baseline(input.size());
    std::vector<Occlusion> positions;
    for (int i = 0; i < 70; ++i) positions.push_back({random.box(kSizes), {0, 3}});
    const Session session(program, extents_of(*program, positions), {}, {}, input.data(), baseline.data(), 3,
                          {});
    std::vector<float> plain_run(70 * 5), measured(70 * 5);
    session.run(positions, {}, {{1, plain_run.data()}}, nullptr, {});
    Costs costs(*program);
    const auto start = std::chrono::steady_clock::now();
    session.run(positions, {}, {{1, measured.data()}}, nullptr, {}, &costs);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    check(measured == plain_run, isa, ": measuring changes outputs");

    int64_t cells[3] = {};
    for (const Occlusion& at : positions) {
        const Box convolved = program->operators()[0]->reach(&at.box);
        const Box boxes[3] = {at.box, convolved, program->operators()[1]->reach(&convolved)};
        for (int v = 0; v < 3; ++v) cells[v] += boxes[v].cells();
    }
    double all = 0;
    for (int v = 0; v < 3; ++v) {
        check(costs.values[v].cells == cells[v], isa, ": value ", v, " took ", costs.values[v].cells,
              " cells, not ", cells[v]);
        check(costs.values[v].seconds > 0, isa, ": value ", v, " took no time");
        all += costs.values[v].seconds;
    }
    check(costs.layers[0].cells == cells[2] && costs.layers[1].cells == 70, isa, ": cells of layers");
    for (const Cost& layer : costs.layers) all += layer.seconds;
    check(all <= 3 * seconds, isa, ": ", all, " s on three threads in ", seconds, " s");
}

// A run that would take long ends soon after it is told to.
void test_cancel(const char* isa) {
    using Clock = std::chrono::steady_clock;
    Random random(1);
    const std::vector<float> weight = random.numbers(16 * 16 * 9, 0.08f);
    const auto convolutions = [&](const Sizes& sizes, int layers) {
        auto program = std::make_shared<Program>(isa, sizes, 16);
        const ConvolutionShape shape{same_sizes(sizes), 16, 16, 1};
        for (int i = 0; i < layers; ++i)
            program->add(make_convolution(program->kernels(), shape, weight.data(), nullptr), {i}, sizes, 16,
                         {});
        return program;
    };
    constexpr Sizes kSizes = {1, 48, 48}, kLarge = {1, 400, 400};
    const std::vector<Box> extents(7, Box::of(kSizes));
    const std::vector<float> input = random.numbers(48 * 48 * 16);
    const Session session(convolutions(kSizes, 6), extents, {}, {}, input.data(), input.data(), 2, {});
    const std::vector<Occlusion> positions(100'000, {Box::of(kSizes), {0, 16}});
    const auto start = Clock::now();
    int polls = 0;
    const bool done = session.run(positions, {}, {}, nullptr, [&] { return ++polls > 1; });
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    check(!done, isa, ": a cancelled run says that it ended");
    check(seconds < 10, isa, ": cancelling took ", seconds, " s");  // sanitizers and emulators are slow

    // Views: told at the first question, which long ones are asked.
    bool thrown = false;
    try {
        const std::vector<float> picture = random.numbers(400 * 400 * 16);
        Session(convolutions(kLarge, 40), std::vector<Box>(41), {}, {}, picture.data(), picture.data(), 2,
                [] { return true; });
    } catch (const std::runtime_error&) {
        thrown = true;
    }
    check(thrown, isa, ": a session whose making was cancelled");
}

void test_sealed() {
    Program program("", {1, 4, 4}, 1);
    program.seal();
    bool refused = false;
    try {
        program.add_mean(0, {});
    } catch (const std::invalid_argument&) {
        refused = true;
    }
    check(refused, "a sealed program grew");
}

}  // namespace
}  // namespace krypton::testing

int main(int argc, char** argv) {
    using namespace krypton;
    const std::vector<int64_t> seeds = testing::seeds(argc, argv, 50);
    testing::test_sealed();
    for (const char* const* isa = kernel_names(); *isa; ++isa) {
        for (int64_t seed : seeds) testing::test_random_program(*isa, seed);
        for (int64_t seed : seeds) testing::test_random_walks(*isa, seed);
        testing::test_shrinking(*isa, {1, 20, 18});
        testing::test_shrinking(*isa, {3, 20, 18});
        testing::test_costs(*isa);
        testing::test_cancel(*isa);
    }
    return testing::report("session");
}
