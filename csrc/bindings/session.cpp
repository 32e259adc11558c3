// Sessions: what Python asks for is checked, then computed without the interpreter's lock.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <tuple>

#include "bindings/arguments.h"
#include "session.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace krypton {
namespace {

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
    bool shrinks = false;
    bool timed = false;
    std::optional<Costs> costs;  // of the runs since `timed` was set
};

using ValueOutput = std::tuple<int, Longs, Output>;  // value, corners (positions, 3), NDHWC
using VectorOutput = std::pair<int, Output>;         // vector, (positions, size)
using Effects = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ShrinkNumbers = std::tuple<int, double, std::optional<Floats<4>>>;  // value, threshold, gradient

using GradientNumbers = std::tuple<int, Floats<4>>;  // value, gradient

// Of a scalar by a value, as stored.
std::vector<float> stored_gradient(const Value& v, const Floats<4>& gradient) {
    require(sizes_of(gradient) == v.sizes && static_cast<int64_t>(gradient.shape(3)) == v.channels,
            "a gradient has the wrong shape");
    return stored_pixels(v, gradient.data());
}

std::vector<Gradient> gradients_of(const Program& program, const std::vector<GradientNumbers>& numbers) {
    std::vector<Gradient> gradients;
    for (const auto& [value, gradient] : numbers) {
        const Value& v = value_of(program, value);
        require(std::ranges::any_of(program.operators(),
                                    [&](const auto& op) { return op->value == value && op->met() >= 0; }),
                "only what meets a global value leaves something out");
        gradients.push_back({value, stored_gradient(v, gradient)});
    }
    return gradients;
}

std::vector<Shrink> shrinks_of(const Program& program, const std::vector<ShrinkNumbers>& numbers) {
    std::vector<Shrink> shrinks(numbers.empty() ? 0 : program.values().size());
    for (const auto& [value, threshold, gradient] : numbers) {
        const Value& v = value_of(program, value);
        require(value > 0 && v.constant.empty(), "only what operators compute is shrunk");
        require(threshold >= 0, "a threshold is negative");
        shrinks[value] = {static_cast<float>(threshold), {}};
        if (gradient) shrinks[value].gradient = stored_gradient(v, *gradient);
    }
    return shrinks;
}

std::vector<Exit> exits_of(const PySession& session, const std::vector<ValueOutput>& outputs,
                           int64_t positions) {
    std::vector<Exit> exits;
    for (const auto& [value, corners, out] : outputs) {
        require(std::ranges::count(session.kept, value) > 0, "the session does not keep this value");
        const Value& v = session.program->values()[value];
        require(out.ndim() == 5 && static_cast<int64_t>(out.shape(0)) == positions &&
                    static_cast<int64_t>(out.shape(4)) == v.channels &&
                    static_cast<int64_t>(corners.shape(0)) == positions && corners.shape(1) == kAxes,
                "an output has the wrong shape");
        const Sizes sizes = sizes_of(out, 1);
        static_assert(sizeof(Corner) == kAxes * sizeof(int64_t));
        const Corner* first = reinterpret_cast<const Corner*>(corners.data());
        for (int64_t p = 0; p < positions; ++p)
            for (Axis axis : kAllAxes)
                require(first[p][axis] >= 0 && first[p][axis] <= v.sizes[axis] - sizes[axis],
                        "an output leaves its value");
        exits.push_back({value, first, sizes, out.data()});
    }
    return exits;
}

std::vector<RowExit> rows_of(const Program& program, const std::vector<VectorOutput>& outputs,
                             int64_t positions) {
    std::vector<RowExit> rows;
    for (const auto& [vector, out] : outputs) {
        require(vector >= 0 && vector < static_cast<int>(program.layers().size()), "there is no such vector");
        require(out.ndim() == 2 && static_cast<int64_t>(out.shape(0)) == positions &&
                    static_cast<int64_t>(out.shape(1)) == program.layers()[vector].size,
                "a vector's output has the wrong shape");
        rows.push_back({vector, out.data()});
    }
    return rows;
}

void check_image(const Program& program, const Floats<4>& image) {
    const Value& in = program.values()[0];
    require(sizes_of(image) == in.sizes && static_cast<int64_t>(image.shape(3)) == in.channels,
            "the input has the wrong shape");
}

// Boxes of the input, (channels, depth, rows, columns), half-open; `contents`: what the cells of all of them
// become, one after the other, NDHWC.
std::vector<Occlusion> occlusions_of(const Program& program, const Longs& boxes,
                                     const std::optional<Floats<1>>& contents) {
    require(boxes.shape(1) == 2 + 2 * kAxes,
            "a box is eight numbers: channels, depth, rows, columns, half-open");
    const Value& in = program.values()[0];
    std::vector<Occlusion> positions;
    std::size_t read = 0;
    for (std::size_t i = 0; i < boxes.shape(0); ++i) {
        const int64_t* b = boxes.data() + boxes.shape(1) * i;
        const auto interval = [&](int64_t number, int64_t size) {
            const Interval found{b[2 * number], b[2 * number + 1]};
            require(found.lo <= found.hi, "a box ends before it begins");
            require(found.lo >= 0 && found.hi <= size, "a box leaves the input");
            return found;
        };
        Occlusion at{{}, interval(0, in.channels)};
        for (Axis axis : kAllAxes) at.box[axis] = interval(1 + axis, in.sizes[axis]);
        positions.push_back(at);
        if (!contents) continue;
        positions.back().contents = contents->data() + read;
        read += static_cast<std::size_t>(at.box.cells() * at.channels.size());
    }
    require(!contents || read == contents->shape(0), "there is one number for every cell that changes");
    return positions;
}

}  // namespace

void bind_session(nb::module_& m) {
    nb::class_<PySession>(m, "Session")
        .def(
            "__init__",
            [](PySession* self, std::shared_ptr<Program> program, Longs extents, std::vector<int> kept,
               Floats<4> input, Floats<4> baseline, int threads, std::vector<ShrinkNumbers> numbers,
               std::vector<GradientNumbers> by_value) {
                const std::vector<Box> boxes = boxes_of(*program, extents);
                check_kept(*program, kept);
                std::vector<Shrink> shrinks = shrinks_of(*program, numbers);
                const std::vector<Gradient> gradients = gradients_of(*program, by_value);
                for (const auto* x : {&input, &baseline}) check_image(*program, *x);
                require(threads > 0, "there is at least one thread");
                program->seal();
                new (self) PySession();
                self->program = program;
                self->kept = kept;
                self->shrinks = !numbers.empty() || !by_value.empty();
                const Signals signals{&self->cancel};
                try {
                    const nb::gil_scoped_release release;
                    self->session =
                        std::make_unique<Session>(program, boxes, kept, std::move(shrinks), input.data(),
                                                  baseline.data(), threads, std::cref(signals), gradients);
                } catch (...) {
                    self->~PySession();
                    if (signals.raised) throw nb::python_error();
                    throw;
                }
            },
            "program"_a, "extents"_a.noconvert(), "kept"_a, "input"_a.noconvert(), "baseline"_a.noconvert(),
            "threads"_a, "shrinks"_a.noconvert(), "gradients"_a.noconvert() = std::vector<GradientNumbers>{})
        .def(
            "base",
            [](const PySession& s, std::vector<ValueOutput> values, std::vector<VectorOutput> vectors) {
                s.session->base(exits_of(s, values, 1), rows_of(*s.program, vectors, 1));
            },
            "values"_a.noconvert(), "vectors"_a.noconvert())
        .def(
            "run",
            [](PySession& s, Longs boxes, std::optional<Effects> effects, std::vector<ValueOutput> values,
               std::vector<VectorOutput> vectors, std::optional<Floats<1>> contents) {
                const std::vector<Occlusion> positions = occlusions_of(*s.program, boxes, contents);
                const int64_t n = static_cast<int64_t>(positions.size());
                const auto exits = exits_of(s, values, n);
                const auto rows = rows_of(*s.program, vectors, n);
                require(!effects || static_cast<int64_t>(effects->shape(0)) == n,
                        "there is one effect for every position");
                const Signals signals{&s.cancel};
                bool done;
                std::optional<Costs> costs;
                if (s.timed) costs.emplace(*s.program);
                {
                    const nb::gil_scoped_release release;
                    done = s.session->run(positions, exits, rows, effects ? effects->data() : nullptr,
                                          std::cref(signals), costs ? &*costs : nullptr);
                }
                if (costs && s.costs) s.costs->add(*costs);
                if (signals.raised) throw nb::python_error();
                return done;
            },
            "boxes"_a.noconvert(), "effects"_a.noconvert().none(), "values"_a.noconvert(),
            "vectors"_a.noconvert(), "contents"_a.noconvert().none() = nb::none())
        .def(
            "begin",
            [](PySession& s, std::optional<Floats<4>> input) {
                const std::vector<bool> read = read_elsewhere(*s.program, s.kept);
                for (int v = 0; v < static_cast<int>(read.size()); ++v)
                    require(!read[v] || !s.program->values()[v].constant.empty() ||
                                std::ranges::count(s.kept, v) > 0,
                            "a session that walks keeps every value that is read");
                require(!s.shrinks, "a session that walks drops nothing");
                if (input) check_image(*s.program, *input);
                const Signals signals{&s.cancel};
                try {
                    const nb::gil_scoped_release release;
                    return s.session->begin(input ? input->data() : nullptr, std::cref(signals));
                } catch (...) {
                    if (signals.raised) throw nb::python_error();
                    throw;
                }
            },
            "input"_a.noconvert().none(),
            "The number of a new walk: from an input, or from the session's own.")
        .def(
            "branch",
            [](PySession& s, int source, std::optional<int> into) {
                for (int walk : {source, into.value_or(source)})
                    require(walk >= 0 && walk < s.session->walks(), "there is no such walk");
                const nb::gil_scoped_release release;
                if (!into) return s.session->branch(source);
                s.session->branch(source, *into);
                return *into;
            },
            "source"_a, "into"_a.none() = nb::none(),
            "The number of a walk that stands where another stands: of a new one, or `into`.")
        .def(
            "step",
            [](PySession& s, std::vector<int> walks, bool settles, Longs boxes,
               std::optional<Floats<1>> contents, std::vector<ValueOutput> values,
               std::vector<VectorOutput> vectors) {
                std::vector<Occlusion> changes = occlusions_of(*s.program, boxes, contents);
                require(walks.size() == changes.size(), "there is one change for every walk");
                std::vector<int> sorted = walks;
                std::ranges::sort(sorted);
                require(!settles || std::ranges::adjacent_find(sorted) == sorted.end(),
                        "a walk takes one step at a time");
                require(sorted.empty() || (sorted.front() >= 0 && sorted.back() < s.session->walks()),
                        "there is no such walk");
                const int64_t n = static_cast<int64_t>(changes.size());
                const auto exits = exits_of(s, values, n);
                const auto rows = rows_of(*s.program, vectors, n);
                const Signals signals{&s.cancel};
                bool done;
                {
                    const nb::gil_scoped_release release;
                    done =
                        s.session->step(walks, settles, std::move(changes), exits, rows, std::cref(signals));
                }
                if (signals.raised) throw nb::python_error();
                return done;
            },
            "walks"_a, "settles"_a, "boxes"_a.noconvert(), "contents"_a.noconvert().none(),
            "values"_a.noconvert(), "vectors"_a.noconvert(),
            "Outputs after one more change of each of some walks; settles: whether the walks keep them.")
        .def_prop_rw(
            "timed", [](const PySession& s) { return s.timed; },
            [](PySession& s, bool timed) {
                s.timed = timed;
                if (timed) s.costs.emplace(*s.program);
            },
            "Whether runs measure what every value and vector costs. False at first: nothing is measured.\n"
            "Setting it to true begins anew.")
        .def(
            "times",
            [](const PySession& s) {
                std::vector<std::pair<double, int64_t>> values, vectors;
                if (s.costs) {
                    for (const Cost& cost : s.costs->values) values.emplace_back(cost.seconds, cost.cells);
                    for (const Cost& cost : s.costs->layers) vectors.emplace_back(cost.seconds, cost.cells);
                }
                return std::pair(values, vectors);
            },
            "What the runs since `timed` was set have cost: (by value, by vector), lists of (seconds, "
            "cells).\n\n"
            "Seconds are those of all threads together; of value 0, the input, what occluding it takes. "
            "Cells\n"
            "are those of the boxes that were computed, summed over positions; of a vector, changed cells "
            "that\n"
            "its layer read, and of a dense layer's, vectors. Both lists are empty where `timed` was never "
            "set.")
        .def("cancel", [](PySession& s) { s.cancel = true; });
}

}  // namespace krypton
