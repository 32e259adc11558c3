// Arguments of the Python module: their types, and the checks that several classes make.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "program.h"

namespace krypton {

template <typename T, int Rank>
using Array = nanobind::ndarray<const T, nanobind::ndim<Rank>, nanobind::c_contig, nanobind::device::cpu>;
template <int Rank>
using Floats = Array<float, Rank>;
using Output = nanobind::ndarray<float, nanobind::c_contig, nanobind::device::cpu>;
using Longs = Array<int64_t, 2>;

// Sizes of an array of pixels, (depth, height, width, channels), but for the channels.
template <typename Pixels>
Sizes sizes_of(const Pixels& pixels, int first = 0) {
    const auto size = [&](int axis) { return static_cast<int64_t>(pixels.shape(first + axis)); };
    return {size(kZ), size(kY), size(kX)};
}

// Throws std::invalid_argument, a ValueError in Python.
void require(bool condition, const std::string& message);

const Value& value_of(const Program& program, int value);

// The largest box of every value.
std::vector<Box> boxes_of(const Program& program, const Longs& extents);

void check_kept(const Program& program, const std::vector<int>& kept);

// Each adds its class, or its function, to the module.
void bind_kriging(nanobind::module_& m);
void bind_program(nanobind::module_& m);
void bind_session(nanobind::module_& m);

}  // namespace krypton
