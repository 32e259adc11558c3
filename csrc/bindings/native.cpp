// The only file that knows Python.
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
#include <optional>
#include <stdexcept>
#include <tuple>

#include "operators/operators.h"
#include "session.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace krypton {
namespace {

template <typename T, int Rank>
using Array = nb::ndarray<const T, nb::ndim<Rank>, nb::c_contig, nb::device::cpu>;
template <int Rank>
using Floats = Array<float, Rank>;
using Output = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Longs = Array<int64_t, 2>;

// n_in, n_out, kernel, stride, padding, dilation
using WindowNumbers = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>;
// Of both sides of a window: the largest number of outputs that count as changed.
using Limits = std::pair<std::optional<int64_t>, std::optional<int64_t>>;
// low, high, function, parameter
using EpilogueNumbers = std::tuple<float, float, std::string, float>;

void require(bool condition, const std::string& message) {
    if (!condition) throw std::invalid_argument(message);
}

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

constexpr std::pair<const char*, Function> kFunctionNames[] = {
    {"identity", kIdentity},   {"sigmoid", kSigmoid},      {"silu", kSilu}, {"hardsigmoid", kHardSigmoid},
    {"hardswish", kHardSwish}, {"leaky_relu", kLeakyRelu}, {"elu", kElu},   {"tanh", kTanh},
    {"gelu", kGelu},           {"gelu_tanh", kGeluTanh},
};

Epilogue epilogue(const EpilogueNumbers& numbers) {
    const auto& [low, high, name, parameter] = numbers;
    require(!std::isnan(low) && !std::isnan(high), "a limit is not a number");
    for (const auto& [known, function] : kFunctionNames)
        if (name == known) return {low, high, function, parameter};
    throw std::invalid_argument("there is no function '" + name + "'");
}

// For operators that compute no sum.
Epilogue unclamped(const EpilogueNumbers& numbers) {
    const Epilogue end = epilogue(numbers);
    require(!end.clamps(), "this operator does not clamp");
    return end;
}

const Value& value_of(const Program& program, int value) {
    require(value >= 0 && value < static_cast<int>(program.values().size()), "there is no such value");
    return program.values()[value];
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

// Whether the user pressed Ctrl-C; asked on the calling thread, which holds no lock meanwhile.
struct Signals {
    const std::atomic<bool>* cancel;
    mutable bool raised = false;

    bool operator()() const {
        const nb::gil_scoped_acquire gil;
        if (PyErr_CheckSignals() != 0) raised = true;
        return raised || *cancel;
    }
};

struct PySession {
    std::atomic<bool> cancel = false;
    std::unique_ptr<Session> session;
    std::shared_ptr<const Program> program;
    std::vector<int> kept;
};

using ValueOutput = std::tuple<int, Longs, Output>;  // value, corners (positions, 2), NHWC
using LayerOutput = std::pair<int, Output>;          // layer, (positions, size)
using Effects = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ShrinkNumbers = std::tuple<int, double, std::optional<Floats<3>>>;  // value, threshold, gradient

// The largest box of every value, checked.
std::vector<Box> boxes_of(const Program& program, const Longs& extents) {
    require(extents.shape(0) == program.values().size() && extents.shape(1) == 2,
            "there is one extent for every value");
    std::vector<Box> boxes;
    for (std::size_t v = 0; v < program.values().size(); ++v) {
        const Value& value = program.values()[v];
        const int64_t height = extents.data()[2 * v], width = extents.data()[2 * v + 1];
        require(height >= 0 && height <= value.height && width >= 0 && width <= value.width,
                "an extent leaves its value");
        boxes.push_back({{0, height}, {0, width}});
    }
    return boxes;
}

void check_kept(const Program& program, const std::vector<int>& kept) {
    for (int v : kept)
        require(value_of(program, v).constant.empty(), "a constant is the same at every position");
}

std::vector<Shrink> shrinks_of(const Program& program, const std::vector<ShrinkNumbers>& numbers) {
    std::vector<Shrink> shrinks(numbers.empty() ? 0 : program.values().size());
    for (const auto& [value, threshold, gradient] : numbers) {
        const Value& v = value_of(program, value);
        require(value > 0 && v.constant.empty(), "only what operators compute is shrunk");
        require(threshold >= 0, "a threshold is negative");
        shrinks[value] = {static_cast<float>(threshold), {}};
        if (!gradient) continue;
        require(static_cast<int64_t>(gradient->shape(0)) == v.height &&
                    static_cast<int64_t>(gradient->shape(1)) == v.width &&
                    static_cast<int64_t>(gradient->shape(2)) == v.channels,
                "a gradient has the wrong shape");
        std::vector<float>& stored = shrinks[value].gradient;
        stored.resize(v.pixels() * v.stored());
        for (int64_t i = 0; i < v.pixels(); ++i)
            std::copy_n(gradient->data() + i * v.channels, v.channels, stored.begin() + i * v.stored());
    }
    return shrinks;
}

std::vector<Exit> exits_of(const PySession& session, const std::vector<ValueOutput>& outputs,
                           int64_t positions) {
    std::vector<Exit> exits;
    for (const auto& [value, corners, out] : outputs) {
        require(std::ranges::count(session.kept, value) > 0, "the session does not keep this value");
        const Value& v = session.program->values()[value];
        require(out.ndim() == 4 && static_cast<int64_t>(out.shape(0)) == positions &&
                    static_cast<int64_t>(out.shape(3)) == v.channels &&
                    static_cast<int64_t>(corners.shape(0)) == positions && corners.shape(1) == 2,
                "an output has the wrong shape");
        const int64_t height = static_cast<int64_t>(out.shape(1)), width = static_cast<int64_t>(out.shape(2));
        for (int64_t p = 0; p < positions; ++p) {
            const int64_t y = corners.data()[2 * p], x = corners.data()[2 * p + 1];
            require(y >= 0 && x >= 0 && y <= v.height - height && x <= v.width - width,
                    "an output leaves its value");
        }
        exits.push_back({value, corners.data(), height, width, out.data()});
    }
    return exits;
}

std::vector<RowExit> rows_of(const Program& program, const std::vector<LayerOutput>& outputs,
                             int64_t positions) {
    std::vector<RowExit> rows;
    for (const auto& [layer, out] : outputs) {
        require(layer >= 0 && layer < static_cast<int>(program.layers().size()), "there is no such layer");
        require(out.ndim() == 2 && static_cast<int64_t>(out.shape(0)) == positions &&
                    static_cast<int64_t>(out.shape(1)) == program.layers()[layer].size,
                "a layer's output has the wrong shape");
        rows.push_back({layer, out.data()});
    }
    return rows;
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Krypton's C++ engine: programs and sessions on boxes of NHWC float32 values.";

    m.def("instruction_sets", [] {
        std::vector<std::string> names;
        for (const char* const* name = kernel_names(); *name; ++name) names.emplace_back(*name);
        return names;
    });
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
                const Arithmetic which = arithmetic == "add"        ? kAdd
                                         : arithmetic == "subtract" ? kSubtract
                                         : arithmetic == "multiply"
                                             ? kMultiply
                                             : throw std::invalid_argument("there is no such arithmetic");
                return p.add(make_combine(which, by_channel(scale, channels, "scale"),
                                          by_channel(shift, channels, "shift")),
                             operands, height, width, channels, epilogue(end));
            },
            "arithmetic"_a, "operands"_a, "height"_a, "width"_a, "channels"_a, "scale"_a.none().noconvert(),
            "shift"_a.none().noconvert(), "epilogue"_a)
        .def(
            "concat",
            [](Program& p, std::vector<int> operands, std::vector<std::pair<int64_t, int64_t>> channels,
               int64_t height, int64_t width, std::optional<Floats<1>> scale, std::optional<Floats<1>> shift,
               EpilogueNumbers end) {
                require(scale.has_value() == shift.has_value(), "scale and shift come together");
                require(operands.size() == channels.size(),
                        "there is one range of channels for every operand");
                std::vector<Interval> ranges;
                int64_t total = 0;
                for (std::size_t i = 0; i < operands.size(); ++i) {
                    const auto [lo, hi] = channels[i];
                    const Value& v = value_of(p, operands[i]);
                    require(v.height == height && v.width == width, "an operand has another size");
                    require(lo >= 0 && lo <= hi && hi <= v.channels, "a range of channels leaves its value");
                    ranges.push_back({lo, hi});
                    total += hi - lo;
                }
                require(total > 0, "nothing to concatenate");
                auto op =
                    make_concat(ranges, by_channel(scale, total, "scale"), by_channel(shift, total, "shift"));
                return p.add(std::move(op), operands, height, width, total, epilogue(end));
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
            [](Program& p, int layer, Floats<2> weight, std::optional<Floats<1>> bias, EpilogueNumbers end) {
                require(layer >= 0 && layer < static_cast<int>(p.layers().size()), "there is no such layer");
                require(static_cast<int64_t>(weight.shape(1)) == p.layers()[layer].size &&
                            (!bias || bias->shape(0) == weight.shape(0)),
                        "a linear layer has the wrong size");
                return p.add_dense(layer, weight.shape(0), weight.data(), data(bias), epilogue(end));
            },
            "layer"_a, "weight"_a.noconvert(), "bias"_a.none().noconvert(), "epilogue"_a);

    nb::class_<PySession>(m, "Session")
        .def(
            "__init__",
            [](PySession* self, std::shared_ptr<Program> program, Longs extents, std::vector<int> kept,
               Floats<3> input, Floats<3> baseline, int threads, std::vector<ShrinkNumbers> numbers) {
                const std::vector<Box> boxes = boxes_of(*program, extents);
                check_kept(*program, kept);
                std::vector<Shrink> shrinks = shrinks_of(*program, numbers);
                const Value& in = program->values()[0];
                for (const auto* x : {&input, &baseline})
                    require(static_cast<int64_t>(x->shape(0)) == in.height &&
                                static_cast<int64_t>(x->shape(1)) == in.width &&
                                static_cast<int64_t>(x->shape(2)) == in.channels,
                            "the input has the wrong shape");
                require(threads > 0, "there is at least one thread");
                program->seal();
                new (self) PySession();
                self->program = program;
                self->kept = kept;
                const Signals signals{&self->cancel};
                try {
                    const nb::gil_scoped_release release;
                    self->session =
                        std::make_unique<Session>(program, boxes, kept, std::move(shrinks), input.data(),
                                                  baseline.data(), threads, std::cref(signals));
                } catch (...) {
                    self->~PySession();
                    if (signals.raised) throw nb::python_error();
                    throw;
                }
            },
            "program"_a, "extents"_a.noconvert(), "kept"_a, "input"_a.noconvert(), "baseline"_a.noconvert(),
            "threads"_a, "shrinks"_a.noconvert())
        .def(
            "base",
            [](const PySession& s, std::vector<ValueOutput> values, std::vector<LayerOutput> layers) {
                s.session->base(exits_of(s, values, 1), rows_of(*s.program, layers, 1));
            },
            "values"_a.noconvert(), "layers"_a.noconvert())
        .def(
            "run",
            [](PySession& s, Longs boxes, std::optional<Effects> effects, std::vector<ValueOutput> values,
               std::vector<LayerOutput> layers) {
                require(boxes.shape(1) == 6, "a box is six numbers: channels, rows, columns, half-open");
                const Value& in = s.program->values()[0];
                std::vector<Occlusion> positions;
                for (std::size_t i = 0; i < boxes.shape(0); ++i) {
                    const int64_t* b = boxes.data() + 6 * i;
                    for (int axis = 0; axis < 3; ++axis)
                        require(b[2 * axis] <= b[2 * axis + 1], "a box ends before it begins");
                    require(b[0] >= 0 && b[1] <= in.channels && b[2] >= 0 && b[3] <= in.height && b[4] >= 0 &&
                                b[5] <= in.width,
                            "a box leaves the input");
                    positions.push_back({{{b[2], b[3]}, {b[4], b[5]}}, {b[0], b[1]}});
                }
                const int64_t n = static_cast<int64_t>(positions.size());
                const auto exits = exits_of(s, values, n);
                const auto rows = rows_of(*s.program, layers, n);
                require(!effects || static_cast<int64_t>(effects->shape(0)) == n,
                        "there is one effect for every position");
                const Signals signals{&s.cancel};
                bool done;
                {
                    const nb::gil_scoped_release release;
                    done = s.session->run(positions, exits, rows, effects ? effects->data() : nullptr,
                                          std::cref(signals));
                }
                if (signals.raised) throw nb::python_error();
                return done;
            },
            "boxes"_a.noconvert(), "effects"_a.noconvert().none(), "values"_a.noconvert(),
            "layers"_a.noconvert())
        .def("cancel", [](PySession& s) { s.cancel = true; });
}

}  // namespace krypton
