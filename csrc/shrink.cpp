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
    const int64_t channels = plane.channels;
    const auto changed = [&](const Corner& cell) { return pixels + all.number(cell) * channels; };
    const auto number = [&](const Corner& cell) { return Box::of(plane.sizes).number(cell) * channels; };
    const auto stays = [&](const Box& part) {
        for (int64_t z = part[kZ].lo; z < part[kZ].hi; ++z)
            for (int64_t y = part[kY].lo; y < part[kY].hi; ++y) {
                const Corner first{z, y, part[kX].lo};
                const float *now = changed(first), *before = plane.view + number(first);
                for (int64_t x = 0; x < part[kX].size(); ++x, now += channels, before += channels)
                    if (differs(now, before, channels, shrink.threshold)) return true;
            }
        return false;
    };
    // Only rims are looked at. One that stays has a cell that stays along the axes after: no need to come
    // back. Where an axis has one cell, as depth has in images, those after it tell the same.
    Box left = all;
    for (Axis axis : kAllAxes) {
        Interval& along = left[axis];
        if (along.size() == 1 && axis != kX) continue;
        const auto rim = [&](int64_t at) {
            Box part = left;
            part[axis] = {at, at + 1};
            return part;
        };
        while (!along.empty() && !stays(rim(along.lo))) ++along.lo;
        while (!along.empty() && !stays(rim(along.hi - 1))) --along.hi;
        if (along.empty()) {
            left = {};
            break;
        }
    }
    if (left.cells() == all.cells()) return all;

    if (!shrink.gradient.empty())
        for (int64_t z = all[kZ].lo; z < all[kZ].hi; ++z)
            for (int64_t y = all[kY].lo; y < all[kY].hi; ++y) {
                const float* now = changed({z, y, all[kX].lo});
                int64_t at = number({z, y, all[kX].lo});
                for (int64_t x = all[kX].lo; x < all[kX].hi; ++x, now += channels, at += channels)
                    if (!left.holds({z, y, x}))
                        effect += product(shrink.gradient.data() + at, now, plane.view + at, channels);
            }
    float* out = pixels;
    for (int64_t z = left[kZ].lo; z < left[kZ].hi; ++z)
        for (int64_t y = left[kY].lo; y < left[kY].hi; ++y, out += left[kX].size() * channels)
            std::memmove(out, changed({z, y, left[kX].lo}), left[kX].size() * channels * sizeof(float));
    return left;
}

}  // namespace krypton
