// Region algebra along one axis, as krypton_engine/graph/regions.py has it. Intervals are half-open.
#pragma once

#include <stdint.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "device.h"

namespace krypton {

// First cell that output `output` of a window reads; negative where that is padding.
KRYPTON_HD inline int64_t first_read(int64_t output, int64_t stride, int64_t padding) {
    return output * stride - padding;
}

struct Interval {
    int64_t lo = 0, hi = 0;

    int64_t size() const { return hi > lo ? hi - lo : 0; }
    bool empty() const { return hi <= lo; }
};

// Bounding interval of both; an empty one does not count.
inline Interval join(Interval a, Interval b) {
    if (a.empty()) return b;
    if (b.empty()) return a;
    return {std::min(a.lo, b.lo), std::max(a.hi, b.hi)};
}

// Empty as soon as one of its sides is.
struct Box {
    Interval y, x;

    bool empty() const { return y.empty() || x.empty(); }
    int64_t cells() const { return y.size() * x.size(); }
};

constexpr Box kOneCell{{0, 1}, {0, 1}};

inline Box join(const Box& a, const Box& b) {
    if (a.empty()) return b;
    if (b.empty()) return a;
    return {join(a.y, b.y), join(a.x, b.x)};
}

// A convolution or a pooling: output o reads o * stride - padding + dilation * [0, kernel).
struct WindowMap {
    int64_t n_in = 0, n_out = 0, kernel = 1, stride = 1, padding = 0, dilation = 1;
    int64_t limit = std::numeric_limits<int64_t>::max();  // largest number of outputs that count as changed

    // Outputs that read a cell of `in`; those in the middle if they are too many.
    Interval changed(Interval in) const {
        const int64_t reach = in.lo + padding - dilation * (kernel - 1);
        const int64_t first = reach > 0 ? (reach + stride - 1) / stride : 0;
        const int64_t last = std::min(n_out, (in.hi - 1 + padding) / stride + 1);
        if (last - first <= limit) return {first, last};
        const int64_t middle = first + (last - first - limit) / 2;
        return {middle, middle + limit};
    }
    int64_t first_read(int64_t output) const { return krypton::first_read(output, stride, padding); }
    int64_t extent_read(int64_t extent) const { return (extent - 1) * stride + dilation * (kernel - 1) + 1; }
};

// Output o is input source[o], or a constant where that is -1.
struct IndexMap {
    std::vector<int64_t> source;
    std::vector<int64_t> first, last;  // readers of every input cell; first > last where there is none

    IndexMap() = default;
    IndexMap(std::vector<int64_t> cells, int64_t n_in)
        : source(std::move(cells)), first(n_in, static_cast<int64_t>(source.size())), last(n_in, -1) {
        for (int64_t o = 0; o < static_cast<int64_t>(source.size()); ++o) {
            if (source[o] < 0) continue;
            first[source[o]] = std::min(first[source[o]], o);
            last[source[o]] = std::max(last[source[o]], o);
        }
    }

    Interval changed(Interval in) const {
        Interval out{static_cast<int64_t>(source.size()), 0};
        for (int64_t cell = in.lo; cell < in.hi; ++cell) {
            out.lo = std::min(out.lo, first[cell]);
            out.hi = std::max(out.hi, last[cell] + 1);
        }
        return out.empty() ? Interval{} : out;
    }
};

// Neighbouring outputs read one interval of inputs, given by tables; without tables, their own cells.
struct IntervalMap {
    std::vector<int64_t> first, end;  // outputs that a change of every input cell reaches
    std::vector<int64_t> read;        // first input that every output reads: in padding, where there is none
    std::vector<int64_t> extents;     // inputs that so many neighbouring outputs read, from one on

    bool own_cells() const { return read.empty(); }
    Interval changed(Interval in) const {
        if (own_cells()) return in;
        Interval out;
        for (int64_t cell = in.lo; cell < in.hi; ++cell) out = join(out, {first[cell], end[cell]});
        return out;
    }
    int64_t first_read(int64_t output) const { return own_cells() ? output : read[output]; }
    int64_t extent_read(int64_t extent) const { return own_cells() ? extent : extents[extent - 1]; }
};

}  // namespace krypton
