#include "shrink.h"

#include <cmath>
#include <cstring>

namespace krypton {

namespace {

// A NaN stays too.
bool differs(const float* a, const float* b, int64_t channels, float threshold) {
    int found = 0;
    for (int64_t c = 0; c < channels; ++c) found |= !(std::abs(a[c] - b[c]) < threshold);
    return found;
}

double product(const float* gradient, const float* now, const float* before, int64_t channels) {
    double sum = 0;
    for (int64_t c = 0; c < channels; ++c) sum += double{gradient[c]} * (double{now[c]} - double{before[c]});
    return sum;
}

}  // namespace

Box shrunk(const Shrink& shrink, const Plane& plane, float* pixels, double& effect) {
    const Box all = plane.box;
    const int64_t channels = plane.channels, width = all.x.size();
    const auto cell = [&](int64_t y, int64_t x) { return (y * plane.width + x) * channels; };
    const auto changed = [&](int64_t y, int64_t x) {
        return pixels + ((y - all.y.lo) * width + x - all.x.lo) * channels;
    };
    Box left = all;
    const auto stays = [&](Interval y, Interval x) {
        for (int64_t i = y.lo; i < y.hi; ++i)
            for (int64_t j = x.lo; j < x.hi; ++j)
                if (differs(changed(i, j), plane.view + cell(i, j), channels, shrink.threshold)) return true;
        return false;
    };
    // Only rims are looked at. A row that stays has a cell whose column stays: no need to come back to rows.
    while (!left.y.empty() && !stays({left.y.lo, left.y.lo + 1}, left.x)) ++left.y.lo;
    while (!left.y.empty() && !stays({left.y.hi - 1, left.y.hi}, left.x)) --left.y.hi;
    if (left.y.empty()) left = {};
    while (!left.x.empty() && !stays(left.y, {left.x.lo, left.x.lo + 1})) ++left.x.lo;
    while (!left.x.empty() && !stays(left.y, {left.x.hi - 1, left.x.hi})) --left.x.hi;
    if (left.cells() == all.cells()) return all;

    if (!shrink.gradient.empty())
        for (int64_t y = all.y.lo; y < all.y.hi; ++y)
            for (int64_t x = all.x.lo; x < all.x.hi; ++x) {
                const bool inside = y >= left.y.lo && y < left.y.hi && x >= left.x.lo && x < left.x.hi;
                if (inside) continue;
                effect += product(shrink.gradient.data() + cell(y, x), changed(y, x), plane.view + cell(y, x),
                                  channels);
            }
    float* out = pixels;
    for (int64_t y = left.y.lo; y < left.y.hi; ++y, out += left.x.size() * channels)
        std::memmove(out, changed(y, left.x.lo), left.x.size() * channels * sizeof(float));
    return left;
}

}  // namespace krypton
