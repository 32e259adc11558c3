// The Python module krypton_engine._cuda. Pointers come as integers, as Tensor.data_ptr() gives them, and
// streams as torch.cuda.Stream.cuda_stream does; krypton_engine/executors/cuda/ sees to what they point to.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <array>
#include <optional>

#include "cuda/kernels.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using namespace krypton::cuda;
using Pointer = std::uintptr_t;
using Reads = std::array<Read, kAxes>;
using Sizes = std::array<int, kAxes>;

template <typename T>
T* at(Pointer pointer) {
    return reinterpret_cast<T*>(pointer);
}

Boxes boxes(const Sizes& sizes, int64_t copies, int64_t first = 0) {
    Boxes out{{}, copies, first};
    std::copy(sizes.begin(), sizes.end(), out.box.sizes);
    return out;
}

}  // namespace

NB_MODULE(_cuda, m) {
    m.attr("architectures") = KRYPTON_CUDA_ARCHITECTURES;

    nb::enum_<Element>(m, "Element")
        .value("float32", Element::kFloat)
        .value("float16", Element::kHalf)
        .value("bfloat16", Element::kBFloat);
    nb::enum_<krypton::Function> functions(m, "Function");
    for (const auto& [name, function] : krypton::kFunctionNames) functions.value(name, function);

    nb::class_<Axis>(m, "Axis").def(
        "__init__",
        [](Axis* self, int size, int extent, Pointer start, Pointer lo, Pointer hi) {
            new (self) Axis{size, extent, at<int>(start), at<int>(lo), at<int>(hi)};
        },
        "size"_a = 1, "extent"_a = 1, "start"_a = 0, "lo"_a = 0, "hi"_a = 0);
    nb::class_<Cells>(m, "Cells")
        .def(
            "__init__",
            [](Cells* self, Pointer view, Pointer changed, Pointer place,
               const std::array<Axis, kAxes>& axes) {
                new (self)
                    Cells{at<char>(view), at<char>(changed), at<int>(place), {axes[0], axes[1], axes[2]}};
            },
            "view"_a, "changed"_a, "place"_a, "axes"_a);
    nb::class_<Read>(m, "Read").def(
        "__init__",
        [](Read* self, Pointer start, int stride, int padding, int dilation, Pointer sources) {
            new (self) Read{at<int>(start), stride, padding, dilation, at<int>(sources)};
        },
        "start"_a = 0, "stride"_a = 1, "padding"_a = 0, "dilation"_a = 1, "sources"_a = 0);

    m.def(
        "compose",
        [](const Cells& cells, const Reads& reads, const Sizes& box, int64_t copies, Pointer out,
           int64_t pitch, int64_t columns, float fill, bool overlay, Element element, Pointer stream) {
            compose(cells, reads.data(), boxes(box, copies), {}, {at<void>(out), pitch}, columns, fill,
                    overlay, element, at<void>(stream));
        },
        "cells"_a, "reads"_a, "box"_a, "copies"_a, "out"_a, "pitch"_a, "columns"_a, "fill"_a, "overlay"_a,
        "element"_a, "stream"_a);
    m.def(
        "unfold",
        [](const Cells& cells, const Reads& reads, const Sizes& kernel, const Sizes& steps, const Sizes& box,
           int64_t first, int64_t copies, Pointer out, int64_t columns, Element element, Pointer stream) {
            Taps taps{boxes(kernel, 1).box, {steps[0], steps[1], steps[2]}};
            compose(cells, reads.data(), boxes(box, copies, first), taps, {at<void>(out), columns}, columns,
                    0, false, element, at<void>(stream));
        },
        "cells"_a, "reads"_a, "kernel"_a, "steps"_a, "box"_a, "first"_a, "copies"_a, "out"_a, "columns"_a,
        "element"_a, "stream"_a);
    m.def(
        "finish",
        [](Pointer x, int64_t columns, Pointer bias, const std::optional<Cells>& residual, const Reads& reads,
           const Sizes& box, int64_t copies, krypton::Function function, float low, float high,
           float parameter, Element element, Pointer stream) {
            finish(at<void>(x), columns, at<float>(bias), residual ? &*residual : nullptr, reads.data(),
                   boxes(box, copies), Epilogue{function, low, high, parameter}, element, at<void>(stream));
        },
        "x"_a, "columns"_a, "bias"_a, "residual"_a.none(), "reads"_a, "box"_a, "copies"_a, "function"_a,
        "low"_a, "high"_a, "parameter"_a, "element"_a, "stream"_a);
    m.def(
        "pool",
        [](const Cells& cells, const Reads& reads, const Sizes& kernel,
           const std::array<Pointer, kAxes>& divisors, bool maximum, const Sizes& box, int64_t copies,
           Pointer out, int64_t columns, Element element, Pointer stream) {
            const float* by_axis[kAxes];
            for (int k = 0; k < kAxes; ++k) by_axis[k] = at<float>(divisors[k]);
            pool(cells, reads.data(), kernel.data(), by_axis, maximum, boxes(box, copies), at<void>(out),
                 columns, element, at<void>(stream));
        },
        "cells"_a, "reads"_a, "kernel"_a, "divisors"_a, "maximum"_a, "box"_a, "copies"_a, "out"_a,
        "columns"_a, "element"_a, "stream"_a);
    m.def(
        "shrink",
        [](const Cells& cells, const Sizes& box, int64_t copies, int64_t columns, float threshold,
           Pointer gradient, Pointer marks, Pointer left, Pointer effect, Element element, Pointer stream) {
            shrink(cells, boxes(box, copies), columns, threshold, at<void>(gradient), at<int>(marks),
                   at<int>(left), at<double>(effect), element, at<void>(stream));
        },
        "cells"_a, "box"_a, "copies"_a, "columns"_a, "threshold"_a, "gradient"_a, "marks"_a, "left"_a,
        "effect"_a, "element"_a, "stream"_a);
}
