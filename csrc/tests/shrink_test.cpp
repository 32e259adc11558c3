// Boxes cut down to what changed by more than a little. Runs `shrink_test [rounds] [seed]`.
#include "shrink.h"
#include "testing.h"

namespace krypton::testing {
namespace {

// A random box on a random view: what is left is the bounding box of large changes, found by looking at all.
void test_shrunk(int64_t seed) {
    Random random(seed);
    const struct {
        int64_t height, width, channels;
    } shape{random.between(1, 9), random.between(1, 9), random.between(1, 20)};
    const int64_t stored = stored_channels(shape.channels);
    const Tensor view = random_image(random, shape.height, shape.width, shape.channels),
                 gradient = random_image(random, shape.height, shape.width, shape.channels);
    const std::vector<float> stored_view = view.stored();
    const Box box{random.interval(shape.height), random.interval(shape.width)};
    const float threshold = random.choice<float>({0, 0.5f, 1, 100});
    const double share = random.choice<double>({0, 0.02, 0.3});  // of cells that change much
    std::vector<float> pixels(box.cells() * stored);
    for (int64_t y = box.y.lo, i = 0; y < box.y.hi; ++y)
        for (int64_t x = box.x.lo; x < box.x.hi; ++x)
            for (int64_t c = 0; c < stored; ++c, ++i) {
                pixels[i] = stored_view[(y * shape.width + x) * stored + c];
                if (c < shape.channels)
                    pixels[i] += random.chance(share / static_cast<double>(shape.channels)) ? 3 : 0.1f;
            }
    const std::vector<float> before = pixels;
    const auto was = [&](int64_t y, int64_t x, int64_t c) {
        return before[((y - box.y.lo) * box.x.size() + x - box.x.lo) * stored + c];
    };

    Box expected;
    double effect = 7;
    for (int64_t y = box.y.lo; y < box.y.hi; ++y)
        for (int64_t x = box.x.lo; x < box.x.hi; ++x)
            for (int64_t c = 0; c < shape.channels; ++c)
                if (std::abs(was(y, x, c) - static_cast<float>(view.at(y, x, c))) >= threshold)
                    expected = join(expected, Box{{y, y + 1}, {x, x + 1}});
    double sum = effect;
    for (int64_t y = box.y.lo; y < box.y.hi; ++y)
        for (int64_t x = box.x.lo; x < box.x.hi; ++x) {
            if (y >= expected.y.lo && y < expected.y.hi && x >= expected.x.lo && x < expected.x.hi) continue;
            for (int64_t c = 0; c < shape.channels; ++c)
                sum += gradient.at(y, x, c) * (was(y, x, c) - view.at(y, x, c));
        }

    const bool compensated = random.chance(0.7);
    const Plane plane{shape.height, shape.width, stored, stored_view.data(), pixels.data(), box};
    const Shrink shrink{threshold, compensated ? gradient.stored() : std::vector<float>()};
    const Box left = shrunk(shrink, plane, pixels.data(), effect);
    check(left.empty() == expected.empty(), "shrunk, seed ", seed, ": empty or not");
    check(close(effect, compensated ? sum : 7, 1e-5 * (1 + std::abs(sum))), "shrunk, seed ", seed,
          ": effect ", effect, ", not ", sum);
    if (left.empty() || expected.empty()) return;
    check(left.y.lo == expected.y.lo && left.y.hi == expected.y.hi && left.x.lo == expected.x.lo &&
              left.x.hi == expected.x.hi,
          "shrunk, seed ", seed, ": another box");
    const float* found = pixels.data();
    for (int64_t y = left.y.lo; y < left.y.hi; ++y)
        for (int64_t x = left.x.lo; x < left.x.hi; ++x)
            for (int64_t c = 0; c < stored; ++c)
                check(*found++ == was(y, x, c), "shrunk, seed ", seed, ": a pixel has moved wrongly");
}

}  // namespace
}  // namespace krypton::testing

int main(int argc, char** argv) {
    using namespace krypton;
    for (int64_t seed : testing::seeds(argc, argv, 600)) testing::test_shrunk(seed);
    return testing::report("shrink");
}
