// Programs: every operator and layer that Python may add, its arguments checked.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <tuple>

#include "bindings/arguments.h"
#include "operators/operators.h"
#include "session.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace krypton {
namespace {

// n_in, n_out, kernel, stride, padding, dilation
using WindowNumbers = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;
// Of the sides of a window: the largest number of outputs that count as changed.
using Limits = ByAxis<std::optional<int64_t>>;
// low, high, function, parameter
using EpilogueNumbers = std::tuple<float, float, std::string, float>;

constexpr Sizes kOne = {1, 1, 1};                 // of a global value
constexpr std::size_t kLongestResized = 1 << 13;  // cells of a side: all pairs of them are checked

WindowMap window(const WindowNumbers& n) {
    const auto [n_in, n_out, kernel, stride, padding, dilation] = n;
    require(n_in > 0 && n_out > 0 && kernel > 0 && stride > 0 && padding >= 0 && dilation > 0,
            "a window's sizes must be positive");
    for (int64_t size : {n_in, n_out, kernel, stride, padding, dilation})
        require(size <= kLargestSize, "a window is too large");
    // A window may leave the padding after the input by a part of its stride, as with ceil_mode.
    require(
        dilation * (kernel - 1) < n_in + 2 * padding + stride && (n_out - 1) * stride < n_in + 2 * padding,
        "a window does not fit its input");
    return {n_in, n_out, kernel, stride, padding, dilation};
}

// The same, with at most so many outputs changed.
WindowMap window(const WindowNumbers& n, std::optional<int64_t> limit) {
    WindowMap map = window(n);
    require(!limit || *limit > 0, "a limit must be positive");
    map.limit = limit.value_or(map.limit);
    return map;
}

Sizes sizes_in(const ByAxis<WindowMap>& maps) { return {maps[kZ].n_in, maps[kY].n_in, maps[kX].n_in}; }
Sizes sizes_out(const ByAxis<WindowMap>& maps) { return {maps[kZ].n_out, maps[kY].n_out, maps[kX].n_out}; }

// Cells that are read together, padding among them: each side passes for itself, their product may not.
void require_few(const Sizes& read) {
    int64_t cells = 1;
    for (int64_t size : read) {
        cells *= size;  // no overflow: a side is less than 1 << 23
        require(cells <= kMostCells, "too many cells are read together");
    }
}

ByAxis<WindowMap> windows(const ByAxis<WindowNumbers>& numbers, const Limits& limits) {
    ByAxis<WindowMap> maps;
    for (Axis axis : kAllAxes) maps[axis] = window(numbers[axis], limits[axis]);
    require_few(extents_read(maps, sizes_out(maps)));
    return maps;
}

Epilogue epilogue(const EpilogueNumbers& numbers) {
    const auto& [low, high, name, parameter] = numbers;
    require(!std::isnan(low) && !std::isnan(high), "a limit is not a number");
    for (const auto& [known, function] : kFunctionNames)
        if (name == known) return {low, high, function, parameter};
    throw std::invalid_argument("there is no function '" + name + "'");
}

Arithmetic arithmetic_of(const std::string& name) {
    constexpr std::pair<const char*, Arithmetic> kNames[] = {
        {"add", kAdd},       {"subtract", kSubtract}, {"multiply", kMultiply},
        {"divide", kDivide}, {"maximum", kMaximum},   {"minimum", kMinimum},
    };
    for (const auto& [known, arithmetic] : kNames)
        if (name == known) return arithmetic;
    throw std::invalid_argument("there is no arithmetic '" + name + "'");
}

// first and end of what every input cell reaches; first read of every output; extents read
using IntervalNumbers =
    std::tuple<std::vector<int64_t>, std::vector<int64_t>, std::vector<int64_t>, std::vector<int64_t>>;

// Without numbers, outputs read their own cells.
IntervalMap interval_map(const std::optional<IntervalNumbers>& numbers, int64_t n_in, int64_t n_out) {
    require(n_out > 0 && n_out <= kLargestSize, "a side has no size");
    if (!numbers) {
        require(n_in == n_out, "an operand has another size");
        return {};
    }
    const auto& [first, end, read, extents] = *numbers;
    require(static_cast<int64_t>(first.size()) == n_in && first.size() == end.size() &&
                static_cast<int64_t>(read.size()) == n_out && read.size() == extents.size(),
            "a table has another size than its side");
    for (int64_t i = 0; i < n_in; ++i)
        require(first[i] >= 0 && end[i] <= n_out, "a cell reaches others than there are");
    for (int64_t i = 0; i < n_out; ++i)
        require(std::abs(read[i]) <= kLargestSize && extents[i] > 0 && extents[i] <= kLargestSize,
                "a cell reads too far");
    return {first, end, read, extents};
}

using Intervals = ByAxis<std::optional<IntervalNumbers>>;

ByAxis<IntervalMap> interval_maps(const Intervals& numbers, const Sizes& in, const Sizes& out) {
    ByAxis<IntervalMap> maps;
    Sizes read;
    for (Axis axis : kAllAxes) {
        maps[axis] = interval_map(numbers[axis], in[axis], out[axis]);
        read[axis] = maps[axis].own_cells() ? out[axis] : std::ranges::max(maps[axis].extents);
    }
    require_few(read);
    return maps;
}

// Of every output and tap, which must be among the inputs that neighbouring outputs read together.
std::vector<float> weights_of(const IntervalMap& map, const std::optional<Floats<2>>& given) {
    require(given.has_value() != map.own_cells(), "weights and tables come together");
    if (!given) return {};
    const std::size_t n = map.read.size(), taps = given->shape(1);
    require(given->shape(0) == n && taps > 0, "weights have the wrong size");
    require(n <= kLongestResized && taps <= kLongestResized, "a side is too long to resize");
    const std::vector<float> weights(given->data(), given->data() + given->size());
    for (std::size_t last = 0; last < n; ++last) {
        std::size_t used = taps;
        while (used > 1 && weights[last * taps + used - 1] == 0) --used;
        for (std::size_t first = 0; first <= last; ++first) {
            const int64_t ahead = map.read[last] - map.read[first];
            require(ahead >= 0 && ahead + static_cast<int64_t>(used) <= map.extents[last - first],
                    "a cell reads too far");
        }
    }
    return weights;
}

// A function of Python as what computes boxes: it takes a list of arrays, the array to fill, (boxes, depth,
// height, width, channels) each, and the corners, (boxes, 3), which are gone when it returns.
Elsewhere in_python(nb::callable compute, std::vector<int64_t> read, int64_t channels) {
    return [compute = std::move(compute), read = std::move(read), channels](
               int64_t boxes, const Extents& extents, const Corner* corners, const float* const* in,
               float* out) {
        const nb::gil_scoped_acquire gil;
        const auto size = [](int64_t n) { return static_cast<std::size_t>(n); };
        const auto array = [&](auto* pixels, const Sizes& sizes, int64_t channels) {
            using Pixels = nb::ndarray<nb::numpy, float, nb::ndim<5>>;
            const std::size_t shape[] = {size(boxes), size(sizes[kZ]), size(sizes[kY]), size(sizes[kX]),
                                         size(channels)};
            return nb::cast(Pixels(const_cast<float*>(pixels), 5, shape), nb::rv_policy::reference);
        };
        nb::list given;
        for (std::size_t i = 0; i < read.size(); ++i) given.append(array(in[i], extents.read, read[i]));
        using Corners = nb::ndarray<nb::numpy, int64_t, nb::ndim<2>>;
        const std::size_t shape[] = {size(boxes), kAxes};
        int64_t* first = const_cast<int64_t*>(corners->data());
        compute(given, array(out, extents.made, channels),
                nb::cast(Corners(first, 2, shape), nb::rv_policy::reference));
    };
}

// For operators that compute no sum.
Epilogue unclamped(const EpilogueNumbers& numbers) {
    const Epilogue end = epilogue(numbers);
    require(!end.clamps(), "this operator does not clamp");
    return end;
}

void require_shape(const Program& program, int value, const Sizes& sizes, int64_t channels) {
    const Value& v = value_of(program, value);
    require(v.sizes == sizes && v.channels == channels, "an operand has another shape");
}

std::vector<float> copy(const std::optional<Floats<1>>& values, int64_t size, const char* name) {
    if (!values) return {};
    require(static_cast<int64_t>(values->shape(0)) == size, std::string(name) + " has the wrong size");
    return {values->data(), values->data() + size};
}

// Scale and shift of padded channels are 0.
std::vector<float> by_channel(const std::optional<Floats<1>>& values, int64_t channels, const char* name) {
    std::vector<float> out = copy(values, channels, name);
    if (!out.empty()) out.resize(stored_channels(channels), 0.0f);
    return out;
}

const float* data(const std::optional<Floats<1>>& values) { return values ? values->data() : nullptr; }

}  // namespace

void bind_program(nb::module_& m) {
    m.def("functions", [] {
        std::vector<std::string> names;
        for (const auto& [name, function] : kFunctionNames) names.emplace_back(name);
        return names;
    });
    nb::class_<Program>(m, "Program")
        .def(nb::init<const std::string&, const Sizes&, int64_t>(), "isa"_a, "sizes"_a, "channels"_a)
        .def_prop_ro("weight_bytes", &Program::weight_bytes)
        .def_prop_ro("view_bytes", &Program::view_bytes)
        .def_prop_ro("outside_bytes", &Program::outside_bytes)
        .def_prop_ro("isa", [](const Program& p) { return p.kernels().name; })
        .def(
            "run_bytes",
            [](const Program& p, Longs extents, std::vector<int> kept, int threads, int64_t positions) {
                const std::vector<Box> boxes = boxes_of(p, extents);
                check_kept(p, kept);
                require(threads > 0 && positions >= 0, "a negative number");
                return run_bytes(p, boxes, kept, threads, positions);
            },
            "extents"_a.noconvert(), "kept"_a, "threads"_a, "positions"_a)
        .def(
            "read_elsewhere",
            [](const Program& p, std::vector<int> kept) {
                check_kept(p, kept);
                const std::vector<bool> read = read_elsewhere(p, kept);
                std::vector<int> values;
                for (int v = 0; v < static_cast<int>(read.size()); ++v)
                    if (read[v] && p.values()[v].constant.empty()) values.push_back(v);
                return values;
            },
            "kept"_a,
            "Values whose views are read elsewhere than inside changed boxes: what a session that walks "
            "keeps.")
        .def(
            "constant",
            [](Program& p, Floats<4> pixels) {
                return p.add_constant(sizes_of(pixels), pixels.shape(3), pixels.data());
            },
            "pixels"_a.noconvert())
        .def(
            "convolution",
            [](Program& p, std::vector<int> operands, const ByAxis<WindowNumbers>& numbers, int64_t groups,
               Floats<5> weight, std::optional<Floats<1>> bias, EpilogueNumbers end, const Limits& limits) {
                const int64_t out = weight.shape(0);
                require(groups > 0 && groups <= out && out % groups == 0, "groups do not divide the outputs");
                const int64_t in = weight.shape(1) * groups;
                const ConvolutionShape shape{windows(numbers, limits), in, out, groups};
                for (Axis axis : kAllAxes)
                    require(static_cast<int64_t>(weight.shape(2 + axis)) == shape.maps[axis].kernel,
                            "the weight has another kernel");
                require(operands.size() == 1 || operands.size() == 2,
                        "a convolution has one or two operands");
                const Sizes sizes = sizes_out(shape.maps);
                require_shape(p, operands[0], sizes_in(shape.maps), in);
                if (operands.size() == 2) require_shape(p, operands[1], sizes, out);
                require(!bias || static_cast<int64_t>(bias->shape(0)) == out, "the bias has the wrong size");
                auto op = make_convolution(p.kernels(), shape, weight.data(), data(bias));
                return p.add(std::move(op), operands, sizes, out, epilogue(end));
            },
            "operands"_a, "windows"_a, "groups"_a, "weight"_a.noconvert(), "bias"_a.none().noconvert(),
            "epilogue"_a, "limits"_a = Limits{})
        .def(
            "pool",
            [](Program& p, int operand, const ByAxis<WindowNumbers>& numbers, int64_t channels,
               const std::optional<ByAxis<std::vector<float>>>& divisors, EpilogueNumbers end,
               const Limits& limits) {
                const ByAxis<WindowMap> maps = windows(numbers, limits);
                const Sizes sizes = sizes_out(maps);
                require_shape(p, operand, sizes_in(maps), channels);
                for (Axis axis : kAllAxes) {
                    if (!divisors) break;
                    const std::vector<float>& along = (*divisors)[axis];
                    require(static_cast<int64_t>(along.size()) == sizes[axis],
                            "divisors have the wrong size");
                    for (float n : along) require(n > 0, "a divisor is not positive");
                }
                auto op = make_pool(maps, !divisors, divisors.value_or(ByAxis<std::vector<float>>{}));
                return p.add(std::move(op), {operand}, sizes, channels, unclamped(end));
            },
            "operand"_a, "windows"_a, "channels"_a, "divisors"_a.none(), "epilogue"_a, "limits"_a = Limits{})
        .def(
            "combine",
            [](Program& p, const std::string& arithmetic, std::vector<int> operands, const Sizes& sizes,
               int64_t channels, std::optional<Floats<1>> scale, std::optional<Floats<1>> shift,
               EpilogueNumbers end) {
                require(operands.size() == 1 || operands.size() == 2, "one or two operands are combined");
                for (int operand : operands) require_shape(p, operand, sizes, channels);
                require(scale.has_value() == shift.has_value(), "scale and shift come together");
                return p.add(make_combine(arithmetic_of(arithmetic), by_channel(scale, channels, "scale"),
                                          by_channel(shift, channels, "shift")),
                             operands, sizes, channels, epilogue(end));
            },
            "arithmetic"_a, "operands"_a, "sizes"_a, "channels"_a, "scale"_a.none().noconvert(),
            "shift"_a.none().noconvert(), "epilogue"_a)
        .def(
            "prelu",
            [](Program& p, int operand, Floats<1> slope, EpilogueNumbers end) {
                const Value v = value_of(p, operand);
                require(static_cast<int64_t>(slope.shape(0)) == v.channels, "slope has the wrong size");
                return p.add(make_combine(kAdd, {}, {}, by_channel(slope, v.channels, "slope")), {operand},
                             v.sizes, v.channels, epilogue(end));
            },
            "operand"_a, "slope"_a.noconvert(), "epilogue"_a)
        .def(
            "concat",
            [](Program& p, std::vector<int> operands, std::vector<std::pair<int64_t, int64_t>> channels,
               const Sizes& sizes, std::optional<Floats<1>> scale, std::optional<Floats<1>> shift,
               EpilogueNumbers end) {
                require(scale.has_value() == shift.has_value(), "scale and shift come together");
                require(operands.size() == channels.size(),
                        "there is one range of channels for every operand");
                std::vector<Piece> pieces;
                std::vector<int> read;  // each operand once
                int64_t total = 0;
                for (std::size_t i = 0; i < operands.size(); ++i) {
                    const auto [lo, hi] = channels[i];
                    const Value& v = value_of(p, operands[i]);
                    require(v.sizes == sizes, "an operand has another size");
                    require(lo >= 0 && lo <= hi && hi <= v.channels, "a range of channels leaves its value");
                    const auto known = std::ranges::find(read, operands[i]);
                    pieces.push_back({static_cast<int>(known - read.begin()), {lo, hi}});
                    if (known == read.end()) read.push_back(operands[i]);
                    total += hi - lo;
                }
                require(total > 0, "nothing to concatenate");
                auto op =
                    make_concat(pieces, by_channel(scale, total, "scale"), by_channel(shift, total, "shift"));
                return p.add(std::move(op), read, sizes, total, epilogue(end));
            },
            "operands"_a, "channels"_a, "sizes"_a, "scale"_a.none().noconvert(), "shift"_a.none().noconvert(),
            "epilogue"_a)
        .def(
            "reindex",
            [](Program& p, int operand, const ByAxis<std::vector<int64_t>>& sources, int64_t channels,
               float fill, EpilogueNumbers end) {
                const Value v = value_of(p, operand);
                require(v.channels == channels, "an operand has another shape");
                ByAxis<IndexMap> maps;
                Sizes sizes;
                for (Axis axis : kAllAxes) {
                    for (int64_t cell : sources[axis])
                        require(cell >= -1 && cell < v.sizes[axis], "a cell does not exist");
                    maps[axis] = IndexMap(sources[axis], v.sizes[axis]);
                    sizes[axis] = static_cast<int64_t>(sources[axis].size());
                }
                return p.add(make_reindex(std::move(maps), fill), {operand}, sizes, channels, unclamped(end));
            },
            "operand"_a, "sources"_a, "channels"_a, "fill"_a, "epilogue"_a)
        .def(
            "resample",
            [](Program& p, int operand, const Sizes& sizes, const Intervals& tables,
               const ByAxis<std::optional<Floats<2>>>& weights) {
                const Value v = value_of(p, operand);
                const ByAxis<IntervalMap> maps = interval_maps(tables, v.sizes, sizes);
                ByAxis<std::vector<float>> factors;
                for (Axis axis : kAllAxes) factors[axis] = weights_of(maps[axis], weights[axis]);
                return p.add(make_resample(maps, factors), {operand}, sizes, v.channels, {});
            },
            "operand"_a, "sizes"_a, "tables"_a, "weights"_a.noconvert())
        .def(
            "interleave",
            [](Program& p, int operand, const Sizes& cells, bool cells_last) {
                const Value v = value_of(p, operand);
                for (int64_t n : cells)
                    require(n > 0 && n <= kMostChannels, "channels do not make whole cells");
                const int64_t count = cells_of(cells);
                require(v.channels % count == 0, "channels do not make whole cells");
                const int64_t channels = v.channels / count;
                Sizes sizes;
                for (Axis axis : kAllAxes) sizes[axis] = v.sizes[axis] * cells[axis];
                auto op = make_interleave(v.sizes, cells, cells_last ? count : 1, cells_last ? 1 : channels);
                return p.add(std::move(op), {operand}, sizes, channels, {});
            },
            "operand"_a, "cells"_a, "cells_last"_a)
        .def(
            "layer_norm",
            [](Program& p, int operand, const Sizes& sizes, int64_t channels, float epsilon,
               std::optional<Floats<1>> weight, std::optional<Floats<1>> bias, EpilogueNumbers end) {
                require_shape(p, operand, sizes, channels);
                require(epsilon >= 0, "epsilon is negative");
                return p.add(make_layer_norm(channels, epsilon, copy(weight, channels, "weight"),
                                             copy(bias, channels, "bias")),
                             {operand}, sizes, channels, unclamped(end));
            },
            "operand"_a, "sizes"_a, "channels"_a, "epsilon"_a, "weight"_a.none().noconvert(),
            "bias"_a.none().noconvert(), "epilogue"_a)
        .def(
            "foreign",
            [](Program& p, std::vector<int> operands, const Sizes& sizes, int64_t channels,
               nb::callable compute, std::size_t bytes, const Intervals& tables) {
                require(!operands.empty(), "an operator has operands");
                const Sizes first = value_of(p, operands[0]).sizes;
                std::vector<int64_t> read;
                for (int operand : operands) {
                    const Value& v = value_of(p, operand);
                    require(v.sizes == first, "an operand has another size");
                    read.push_back(v.channels);
                }
                require(bytes <= std::size_t{1} << 40, "a cell takes too much memory");
                auto op = make_foreign(interval_maps(tables, first, sizes), read,
                                       in_python(std::move(compute), read, channels), bytes);
                return p.add(std::move(op), operands, sizes, channels, {});
            },
            "operands"_a, "sizes"_a, "channels"_a, "compute"_a, "bytes"_a, "tables"_a = Intervals{})
        .def(
            "moments",
            [](Program& p, int operand, bool variance) {
                const Value& v = value_of(p, operand);
                require(v.constant.empty(), "moments of a constant");
                const int64_t channels = variance ? 2 * v.stored() : v.channels;
                return p.add(make_moments(v.pixels(), variance), {operand}, kOne, channels, {});
            },
            "operand"_a, "variance"_a)
        .def(
            "euclidean_norm",
            [](Program& p, int operand) {
                const Value v = value_of(p, operand);
                require(v.constant.empty(), "a norm of a constant");
                return p.add(make_euclidean_norm(v.pixels()), {operand}, kOne, v.channels, {});
            },
            "operand"_a)
        .def(
            "largest",
            [](Program& p, int operand) {
                const Value v = value_of(p, operand);
                require(v.constant.empty(), "the largest of a constant");
                return p.add(make_largest(v.pixels()), {operand}, kOne, v.channels, {});
            },
            "operand"_a)
        .def(
            "norm",
            [](Program& p, int moments, int64_t channels, int64_t groups, float epsilon,
               std::optional<Floats<1>> weight, std::optional<Floats<1>> bias) {
                const Value& v = value_of(p, moments);
                require(channels > 0 && channels <= kMostChannels && groups > 0 && channels % groups == 0,
                        "groups do not divide the channels");
                require(v.global && v.channels == 2 * stored_channels(channels),
                        "a norm takes means and variances");
                require(epsilon >= 0, "epsilon is negative");
                return p.add(make_norm(channels, groups, epsilon, copy(weight, channels, "weight"),
                                       copy(bias, channels, "bias")),
                             {moments}, kOne, v.channels, {});
            },
            "moments"_a, "channels"_a, "groups"_a, "epsilon"_a, "weight"_a.none().noconvert(),
            "bias"_a.none().noconvert())
        .def(
            "meet",
            [](Program& p, int operand, int global, const std::string& name, std::optional<Floats<1>> scale,
               std::optional<Floats<1>> shift, bool adds_image, EpilogueNumbers end) {
                const Value v = value_of(p, operand), met = value_of(p, global);
                const Meeting meeting = name == "factor"    ? Meeting::kFactor
                                        : name == "summand" ? Meeting::kSummand
                                        : name == "both"
                                            ? Meeting::kBoth
                                            : throw std::invalid_argument("there is no such meeting");
                require(scale.has_value() == shift.has_value(), "scale and shift come together");
                require(v.constant.empty() && !v.global && met.global, "an image meets a global value");
                require(met.channels == (meeting == Meeting::kBoth ? 2 * v.stored() : v.channels),
                        "a global value has another number of channels");
                auto op = make_meeting(meeting, by_channel(scale, v.channels, "scale"),
                                       by_channel(shift, v.channels, "shift"), adds_image);
                return p.add(std::move(op), {operand, global}, v.sizes, v.channels, epilogue(end));
            },
            "operand"_a, "met"_a, "meeting"_a, "scale"_a.none().noconvert(), "shift"_a.none().noconvert(),
            "adds_image"_a, "epilogue"_a)
        .def(
            "mean",
            [](Program& p, int value, EpilogueNumbers end) { return p.add_mean(value, epilogue(end)); },
            "value"_a, "epilogue"_a)
        .def(
            "sum", [](Program& p, int value, EpilogueNumbers end) { return p.add_sum(value, epilogue(end)); },
            "value"_a, "epilogue"_a)
        .def(
            "cells",
            [](Program& p, int value, Floats<2> weight, std::optional<Floats<1>> bias, EpilogueNumbers end) {
                const Value& v = value_of(p, value);
                require(static_cast<int64_t>(weight.shape(1)) == v.pixels() * v.channels &&
                            (!bias || bias->shape(0) == weight.shape(0)),
                        "a linear layer has the wrong size");
                return p.add_cells(value, weight.shape(0), weight.data(), data(bias), epilogue(end));
            },
            "value"_a, "weight"_a.noconvert(), "bias"_a.none().noconvert(), "epilogue"_a)
        .def(
            "dense",
            [](Program& p, int vector, Floats<2> weight, std::optional<Floats<1>> bias, EpilogueNumbers end) {
                require(vector >= 0 && vector < static_cast<int>(p.layers().size()),
                        "there is no such vector");
                require(static_cast<int64_t>(weight.shape(1)) == p.layers()[vector].size &&
                            (!bias || bias->shape(0) == weight.shape(0)),
                        "a linear layer has the wrong size");
                return p.add_dense(vector, weight.shape(0), weight.data(), data(bias), epilogue(end));
            },
            "vector"_a, "weight"_a.noconvert(), "bias"_a.none().noconvert(), "epilogue"_a);
}

}  // namespace krypton
