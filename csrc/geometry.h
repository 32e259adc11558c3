// Region algebra, axis by axis, as krypton_engine/graph/regions.py has it. Intervals are half-open.
#pragma once

#include <stdint.h>

#include <algorithm>
#include <array>
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

// Axes of every value: depth, rows and columns. An image has a depth of one cell, a signal one row too.
enum Axis : int { kZ, kY, kX, kAxes };
constexpr Axis kAllAxes[] = {kZ, kY, kX};

template <typename T>
using ByAxis = std::array<T, kAxes>;
using Sizes = ByAxis<int64_t>;   // cells along every axis
using Corner = ByAxis<int64_t>;  // a cell

inline int64_t cells_of(const Sizes& sizes) { return sizes[kZ] * sizes[kY] * sizes[kX]; }

// Empty as soon as one of its sides is.
struct Box {
    ByAxis<Interval> along;

    // Of the first cells of a value.
    static Box of(const Sizes& sizes) { return {{{{0, sizes[kZ]}, {0, sizes[kY]}, {0, sizes[kX]}}}}; }

    const Interval& operator[](int axis) const { return along[axis]; }
    Interval& operator[](int axis) { return along[axis]; }
    bool empty() const { return along[kZ].empty() || along[kY].empty() || along[kX].empty(); }
    Corner first() const { return {along[kZ].lo, along[kY].lo, along[kX].lo}; }
    Sizes sizes() const { return {along[kZ].size(), along[kY].size(), along[kX].size()}; }
    int64_t cells() const { return cells_of(sizes()); }
    bool holds(const Corner& cell) const {
        for (Axis axis : kAllAxes)
            if (cell[axis] < along[axis].lo || cell[axis] >= along[axis].hi) return false;
        return true;
    }
    // The number of a cell among those of the box.
    int64_t number(const Corner& cell) const {
        return ((cell[kZ] - along[kZ].lo) * along[kY].size() + cell[kY] - along[kY].lo) * along[kX].size() +
               cell[kX] - along[kX].lo;
    }
};

inline Box one_cell() { return Box::of({1, 1, 1}); }

inline Box join(const Box& a, const Box& b) {
    if (a.empty()) return b;
    if (b.empty()) return a;
    Box all;
    for (Axis axis : kAllAxes) all[axis] = join(a[axis], b[axis]);
    return all;
}

// The box that maps of axes make of another one, where that is not empty.
template <typename Map>
Box changed_by(const ByAxis<Map>& maps, const Box& in) {
    if (in.empty()) return {};
    Box out;
    for (Axis axis : kAllAxes) out[axis] = maps[axis].changed(in[axis]);
    return out.empty() ? Box{} : out;
}

// First cells that outputs from `first` on read, and cells that a box of outputs reads together.
template <typename Map>
Corner first_read(const ByAxis<Map>& maps, const Corner& first) {
    Corner read;
    for (Axis axis : kAllAxes) read[axis] = maps[axis].first_read(first[axis]);
    return read;
}
template <typename Map>
Sizes extents_read(const ByAxis<Map>& maps, const Sizes& outputs) {
    Sizes read;
    for (Axis axis : kAllAxes) read[axis] = maps[axis].extent_read(outputs[axis]);
    return read;
}

// Rows of a box, one after the other: visit(number of the row's first cell among all of a value).
template <typename Visit>
void for_rows(const Box& box, const Sizes& value, const Visit& visit) {
    for (int64_t z = box[kZ].lo; z < box[kZ].hi; ++z)
        for (int64_t y = box[kY].lo; y < box[kY].hi; ++y) visit((z * value[kY] + y) * value[kX] + box[kX].lo);
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
