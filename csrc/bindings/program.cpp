// Programs: every operator and layer that Python may add, its arguments checked.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
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
// Of both sides of a window: the largest number of outputs that count as changed.
using Limits = std::pair<std::optional<int64_t>, std::optional<int64_t>>;
// low, high, function, parameter
using EpilogueNumbers = std::tuple<float, float, std::string, float>;

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

// A function of Python as what computes boxes: it takes a list of arrays, the array to fill, (boxes, height,
// width, channels) each, and the corners, (boxes, 2), which are gone when it returns.
Elsewhere in_python(nb::callable compute, std::vector<int64_t> read, int64_t channels) {
    return [compute = std::move(compute), read = std::move(read), channels](
               int64_t boxes, const Extents& extents, const int64_t* corners, const float* const* in,
               float* out) {
        const nb::gil_scoped_acquire gil;
        const auto size = [](int64_t n) { return static_cast<std::size_t>(n); };
        const auto array = [&](auto* pixels, int64_t height, int64_t width, int64_t channels) {
            using Pixels = nb::ndarray<nb::numpy, float, nb::ndim<4>>;
            const std::size_t shape[] = {size(boxes), size(height), size(width), size(channels)};
            return nb::cast(Pixels(const_cast<float*>(pixels), 4, shape), nb::rv_policy::reference);
        };
        nb::list given;
        for (std::size_t i = 0; i < read.size(); ++i)
            given.append(array(in[i], extents.read_height, extents.read_width, read[i]));
        using Corners = nb::ndarray<nb::numpy, int64_t, nb::ndim<2>>;
        const std::size_t shape[] = {size(boxes), 2};
        compute(given, array(out, extents.height, extents.width, channels),
                nb::cast(Corners(const_cast<int64_t*>(corners), 2, shape), nb::rv_policy::reference));
    };
}

// For operators that compute no sum.
Epilogue unclamped(const EpilogueNumbers& numbers) {
    const Epilogue end = epilogue(numbers);
    require(!end.clamps(), "this operator does not clamp");
    return end;
}

void require_shape(const Program& program, int value, int64_t height, int64_t width, int64_t channels) {
    const Value& v = value_of(program, value);
    require(v.height == height && v.width == width && v.channels == channels, "an operand has another shape");
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
        .def(nb::init<const std::string&, int64_t, int64_t, int64_t>(), "isa"_a, "height"_a, "width"_a,
             "channels"_a)
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
            [](Program& p, Floats<3> pixels) {
                return p.add_constant(pixels.shape(0), pixels.shape(1), pixels.shape(2), pixels.data());
            },
            "pixels"_a.noconvert())
        .def(
            "convolution",
            [](Program& p, std::vector<int> operands, WindowNumbers y, WindowNumbers x, int64_t groups,
               Floats<4> weight, std::optional<Floats<1>> bias, EpilogueNumbers end, Limits limits) {
                const int64_t out = weight.shape(0);
                require(groups > 0 && groups <= out && out % groups == 0, "groups do not divide the outputs");
                const int64_t in = weight.shape(1) * groups;
                const ConvolutionShape shape{window(y, limits.first), window(x, limits.second), in, out,
                                             groups};
                require(static_cast<int64_t>(weight.shape(2)) == shape.y.kernel &&
                            static_cast<int64_t>(weight.shape(3)) == shape.x.kernel,
                        "the weight has another kernel");
                require(operands.size() == 1 || operands.size() == 2,
                        "a convolution has one or two operands");
                require_shape(p, operands[0], shape.y.n_in, shape.x.n_in, in);
                if (operands.size() == 2) require_shape(p, operands[1], shape.y.n_out, shape.x.n_out, out);
                require(!bias || static_cast<int64_t>(bias->shape(0)) == out, "the bias has the wrong size");
                auto op = make_convolution(p.kernels(), shape, weight.data(), data(bias));
                return p.add(std::move(op), operands, shape.y.n_out, shape.x.n_out, out, epilogue(end));
            },
            "operands"_a, "y"_a, "x"_a, "groups"_a, "weight"_a.noconvert(), "bias"_a.none().noconvert(),
            "epilogue"_a, "limits"_a = Limits{})
        .def(
            "pool",
            [](Program& p, int operand, WindowNumbers y, WindowNumbers x, int64_t channels,
               std::optional<std::pair<std::vector<float>, std::vector<float>>> divisors, EpilogueNumbers end,
               Limits limits) {
                const WindowMap my = window(y, limits.first), mx = window(x, limits.second);
                require_shape(p, operand, my.n_in, mx.n_in, channels);
                require(!divisors || (static_cast<int64_t>(divisors->first.size()) == my.n_out &&
                                      static_cast<int64_t>(divisors->second.size()) == mx.n_out),
                        "divisors have the wrong size");
                if (divisors)
                    for (const auto& counts : {divisors->first, divisors->second})
                        for (float n : counts) require(n > 0, "a divisor is not positive");
                const auto [dy, dx] = divisors.value_or(std::pair<std::vector<float>, std::vector<float>>{});
                return p.add(make_pool(my, mx, !divisors, dy, dx), {operand}, my.n_out, mx.n_out, channels,
                             unclamped(end));
            },
            "operand"_a, "y"_a, "x"_a, "channels"_a, "divisors"_a.none(), "epilogue"_a, "limits"_a = Limits{})
        .def(
            "combine",
            [](Program& p, const std::string& arithmetic, std::vector<int> operands, int64_t height,
               int64_t width, int64_t channels, std::optional<Floats<1>> scale,
               std::optional<Floats<1>> shift, EpilogueNumbers end) {
                require(operands.size() == 1 || operands.size() == 2, "one or two operands are combined");
                for (int operand : operands) require_shape(p, operand, height, width, channels);
                require(scale.has_value() == shift.has_value(), "scale and shift come together");
                return p.add(make_combine(arithmetic_of(arithmetic), by_channel(scale, channels, "scale"),
                                          by_channel(shift, channels, "shift")),
                             operands, height, width, channels, epilogue(end));
            },
            "arithmetic"_a, "operands"_a, "height"_a, "width"_a, "channels"_a, "scale"_a.none().noconvert(),
            "shift"_a.none().noconvert(), "epilogue"_a)
        .def(
            "prelu",
            [](Program& p, int operand, Floats<1> slope, EpilogueNumbers end) {
                const Value v = value_of(p, operand);
                require(static_cast<int64_t>(slope.shape(0)) == v.channels, "slope has the wrong size");
                return p.add(make_combine(kAdd, {}, {}, by_channel(slope, v.channels, "slope")), {operand},
                             v.height, v.width, v.channels, epilogue(end));
            },
            "operand"_a, "slope"_a.noconvert(), "epilogue"_a)
        .def(
            "concat",
            [](Program& p, std::vector<int> operands, std::vector<std::pair<int64_t, int64_t>> channels,
               int64_t height, int64_t width, std::optional<Floats<1>> scale, std::optional<Floats<1>> shift,
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
                    require(v.height == height && v.width == width, "an operand has another size");
                    require(lo >= 0 && lo <= hi && hi <= v.channels, "a range of channels leaves its value");
                    const auto known = std::ranges::find(read, operands[i]);
                    pieces.push_back({static_cast<int>(known - read.begin()), {lo, hi}});
                    if (known == read.end()) read.push_back(operands[i]);
                    total += hi - lo;
                }
                require(total > 0, "nothing to concatenate");
                auto op =
                    make_concat(pieces, by_channel(scale, total, "scale"), by_channel(shift, total, "shift"));
                return p.add(std::move(op), read, height, width, total, epilogue(end));
            },
            "operands"_a, "channels"_a, "height"_a, "width"_a, "scale"_a.none().noconvert(),
            "shift"_a.none().noconvert(), "epilogue"_a)
        .def(
            "reindex",
            [](Program& p, int operand, std::vector<int64_t> y, std::vector<int64_t> x, int64_t channels,
               float fill, EpilogueNumbers end) {
                const Value& v = value_of(p, operand);
                require(v.channels == channels, "an operand has another shape");
                for (int64_t cell : y) require(cell >= -1 && cell < v.height, "a row does not exist");
                for (int64_t cell : x) require(cell >= -1 && cell < v.width, "a column does not exist");
                const int64_t height = static_cast<int64_t>(y.size()), width = static_cast<int64_t>(x.size());
                return p.add(make_reindex(IndexMap(y, v.height), IndexMap(x, v.width), fill), {operand},
                             height, width, channels, unclamped(end));
            },
            "operand"_a, "y"_a, "x"_a, "channels"_a, "fill"_a, "epilogue"_a)
        .def(
            "resample",
            [](Program& p, int operand, int64_t height, int64_t width, std::optional<IntervalNumbers> y,
               std::optional<IntervalNumbers> x, std::optional<Floats<2>> weights_y,
               std::optional<Floats<2>> weights_x) {
                const Value v = value_of(p, operand);
                const IntervalMap my = interval_map(y, v.height, height),
                                  mx = interval_map(x, v.width, width);
                auto op = make_resample(my, mx, weights_of(my, weights_y), weights_of(mx, weights_x));
                return p.add(std::move(op), {operand}, height, width, v.channels, {});
            },
            "operand"_a, "height"_a, "width"_a, "y"_a.none(), "x"_a.none(), "weights_y"_a.none().noconvert(),
            "weights_x"_a.none().noconvert())
        .def(
            "interleave",
            [](Program& p, int operand, int64_t rows, int64_t columns, bool cells_last) {
                const Value v = value_of(p, operand);
                require(rows > 0 && columns > 0 && rows <= kMostChannels && columns <= kMostChannels &&
                            v.channels % (rows * columns) == 0,
                        "channels do not make whole cells");
                const int64_t channels = v.channels / (rows * columns);
                auto op = make_interleave(v.height, v.width, rows, columns, cells_last ? rows * columns : 1,
                                          cells_last ? 1 : channels);
                return p.add(std::move(op), {operand}, v.height * rows, v.width * columns, channels, {});
            },
            "operand"_a, "rows"_a, "columns"_a, "cells_last"_a)
        .def(
            "layer_norm",
            [](Program& p, int operand, int64_t height, int64_t width, int64_t channels, float epsilon,
               std::optional<Floats<1>> weight, std::optional<Floats<1>> bias, EpilogueNumbers end) {
                require_shape(p, operand, height, width, channels);
                require(epsilon >= 0, "epsilon is negative");
                return p.add(make_layer_norm(channels, epsilon, copy(weight, channels, "weight"),
                                             copy(bias, channels, "bias")),
                             {operand}, height, width, channels, unclamped(end));
            },
            "operand"_a, "height"_a, "width"_a, "channels"_a, "epsilon"_a, "weight"_a.none().noconvert(),
            "bias"_a.none().noconvert(), "epilogue"_a)
        .def(
            "foreign",
            [](Program& p, std::vector<int> operands, int64_t height, int64_t width, int64_t channels,
               nb::callable compute, std::size_t bytes, std::optional<IntervalNumbers> y,
               std::optional<IntervalNumbers> x) {
                require(!operands.empty(), "an operator has operands");
                const Value first = value_of(p, operands[0]);
                std::vector<int64_t> read;
                for (int operand : operands) {
                    const Value& v = value_of(p, operand);
                    require(v.height == first.height && v.width == first.width,
                            "an operand has another size");
                    read.push_back(v.channels);
                }
                require(bytes <= std::size_t{1} << 40, "a cell takes too much memory");
                auto op =
                    make_foreign(interval_map(y, first.height, height), interval_map(x, first.width, width),
                                 read, in_python(std::move(compute), read, channels), bytes);
                return p.add(std::move(op), operands, height, width, channels, {});
            },
            "operands"_a, "height"_a, "width"_a, "channels"_a, "compute"_a, "bytes"_a, "y"_a = nb::none(),
            "x"_a = nb::none())
        .def(
            "moments",
            [](Program& p, int operand, bool variance) {
                const Value& v = value_of(p, operand);
                require(v.constant.empty(), "moments of a constant");
                const int64_t channels = variance ? 2 * v.stored() : v.channels;
                return p.add(make_moments(v.pixels(), variance), {operand}, 1, 1, channels, {});
            },
            "operand"_a, "variance"_a)
        .def(
            "euclidean_norm",
            [](Program& p, int operand) {
                const Value v = value_of(p, operand);
                require(v.constant.empty(), "a norm of a constant");
                return p.add(make_euclidean_norm(v.pixels()), {operand}, 1, 1, v.channels, {});
            },
            "operand"_a)
        .def(
            "largest",
            [](Program& p, int operand) {
                const Value v = value_of(p, operand);
                require(v.constant.empty(), "the largest of a constant");
                return p.add(make_largest(v.pixels()), {operand}, 1, 1, v.channels, {});
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
                             {moments}, 1, 1, v.channels, {});
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
                return p.add(std::move(op), {operand, global}, v.height, v.width, v.channels, epilogue(end));
            },
            "operand"_a, "met"_a, "meeting"_a, "scale"_a.none().noconvert(), "shift"_a.none().noconvert(),
            "adds_image"_a, "epilogue"_a)
        .def(
            "mean",
            [](Program& p, int value, EpilogueNumbers end) { return p.add_mean(value, epilogue(end)); },
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
