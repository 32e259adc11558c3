#include <nanobind/stl/vector.h>

#include <algorithm>

#include "bindings/arguments.h"
#include "kriging.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace krypton {
namespace {

using Doubles = nb::ndarray<double, nb::c_contig, nb::device::cpu>;

void weights(const Array<double, 1>& covariances, const std::vector<int64_t>& shape, const Longs& positions,
             const Array<double, 2>& near, double nugget, bool level_known, const Doubles& weights,
             const Doubles& multipliers) {
    int64_t cells = 1;
    for (int64_t size : shape) cells *= size;
    const std::size_t targets = positions.shape(0), sources = positions.shape(1);
    require(covariances.shape(0) == static_cast<std::size_t>(cells),
            "there is one covariance for every cell");
    require(near.shape(0) == targets && near.shape(1) == sources && weights.size() == near.size(),
            "every source of a target has a covariance and a weight");
    require(multipliers.size() == targets, "every target has a multiplier");
    const int64_t* end = positions.data() + targets * sources;
    require(std::all_of(positions.data(), end, [&](int64_t each) { return each >= 0 && each < cells; }),
            "a position lies outside the grid");
    const Kriging kriging{{shape, covariances.data()}, static_cast<int64_t>(sources), nugget, level_known};
    nb::gil_scoped_release release;
    kriging_weights(kriging, positions.data(), near.data(), static_cast<int64_t>(targets), weights.data(),
                    multipliers.data());
}

}  // namespace

void bind_kriging(nb::module_& m) {
    m.def("kriging_weights", &weights, "covariances"_a, "shape"_a, "positions"_a, "near"_a, "nugget"_a,
          "level_known"_a, "weights"_a, "multipliers"_a);
}

}  // namespace krypton
