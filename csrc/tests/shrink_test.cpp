// Boxes cut down to what changed by more than a little. Runs `shrink_test [rounds] [seed]`.
#include "shrink.h"
#include "testing.h"

namespace krypton::testing {
namespace {

// A random box on a random view: what is left is the bounding box of large changes, found by looking at all.
void test_shrunk(int64_t seed) {
    Random random(seed);
    const Sizes sizes = random.sizes(9);
    const int64_t channels = random.between(1, 20), stored = stored_channels(channels);
    const Tensor view = random_image(random, sizes, channels),
                 gradient = random_image(random, sizes, channels);
    const std::vector<float> stored_view = view.stored();
    const Box box = random.box(sizes);
    const float threshold = random.choice<float>({0, 0.5f, 1, 100});
    const double share = random.choice<double>({0, 0.02, 0.3});  // of cells that change much
    std::vector<float> pixels;
    for_box(box, [&](const Corner& cell) {
        for (int64_t c = 0; c < stored; ++c) {
            pixels.push_back(stored_view[view.cells.number(cell) * stored + c]);
            if (c < channels)
                pixels.back() += random.chance(share / static_cast<double>(channels)) ? 3 : 0.1f;
        }
    });
    const std::vector<float> before = pixels;
    const auto was = [&](const Corner& cell, int64_t c) { return before[box.number(cell) * stored + c]; };

    Box expected;
    for_box(box, [&](const Corner& cell) {
        const auto [z, y, x] = cell;
        for (int64_t c = 0; c < channels; ++c)
            if (std::abs(was(cell, c) - static_cast<float>(view.at(cell, c))) >= threshold)
                expected = join(expected, Box{{{{z, z + 1}, {y, y + 1}, {x, x + 1}}}});
    });
    double effect = 7, sum = effect;
    for_box(box, [&](const Corner& cell) {
        if (expected.holds(cell)) return;
        for (int64_t c = 0; c < channels; ++c)
            sum += gradient.at(cell, c) * (was(cell, c) - view.at(cell, c));
    });

    const bool compensated = random.chance(0.7);
    const Plane plane{sizes, stored, stored_view.data(), pixels.data(), box};
    const Shrink shrink{threshold, compensated ? gradient.stored() : std::vector<float>()};
    const Box left = shrunk(shrink, plane, pixels.data(), effect);
    check(same(left, expected), "shrunk, seed ", seed, ": ", left, ", not ", expected);
    check(close(effect, compensated ? sum : 7, 1e-5 * (1 + std::abs(sum))), "shrunk, seed ", seed,
          ": effect ", effect, ", not ", sum);
    if (!same(left, expected)) return;
    const float* found = pixels.data();
    for_box(left, [&](const Corner& cell) {
        for (int64_t c = 0; c < stored; ++c)
            check(*found++ == was(cell, c), "shrunk, seed ", seed, ": a pixel has moved wrongly");
    });
}

}  // namespace
}  // namespace krypton::testing

int main(int argc, char** argv) {
    using namespace krypton;
    for (int64_t seed : testing::seeds(argc, argv, 600)) testing::test_shrunk(seed);
    return testing::report("shrink");
}
