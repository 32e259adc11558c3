#include "cuda/kernels.h"

#include "cuda/compose.h"
#include "cuda/launch.h"
#include "cuda/pooling.h"
#include "cuda/shrink.h"

namespace krypton::cuda {

namespace {

// Calls `use` with an element of the type.
template <typename Use>
void with(Element element, const Use& use) {
    switch (element) {
        case Element::kFloat: return use(float{});
        case Element::kHalf: return use(Half{});
        case Element::kBFloat: return use(BFloat{});
    }
    throw std::runtime_error("no such element");
}

template <int kBytes>
struct alignas(kBytes) Unit {
    std::uint16_t halves[kBytes / 2];
};

int64_t bytes_of(Element element) { return element == Element::kFloat ? 4 : 2; }

template <int kBytes>
void compose_in(const Cells& from, const Read* reads, const Boxes& boxes, const Taps& taps, const Out& out,
                int64_t bytes, int64_t pitch, const std::uint16_t (&fill)[2], bool overlay, Stream stream) {
    Compose<Unit<kBytes>> body;
    body.from = from;
    std::copy_n(reads, kAxes, body.reads);
    body.box = boxes.box;
    body.first = boxes.first;
    body.taps = taps;
    body.out = static_cast<char*>(out.data);
    body.pitch = pitch / kBytes;
    body.columns = bytes / kBytes;
    for (int i = 0; i < kBytes / 2; ++i) body.fill.halves[i] = fill[i % 2];
    body.overlay = overlay;
    launch(body, boxes.rows() * taps.box.cells(), body.columns, stream);
}

}  // namespace

void compose(const Cells& from, const Read* reads, const Boxes& boxes, const Taps& taps, const Out& out,
             int64_t columns, float fill, bool overlay, Element element, Stream stream) {
    const int64_t size = bytes_of(element), bytes = columns * size, pitch = out.pitch * size;
    std::uint16_t halves[2];
    with(element, [&](auto kind) {
        const auto one = from_float<decltype(kind)>(fill);
        for (int64_t i = 0; i < 4; i += size) std::memcpy(reinterpret_cast<char*>(halves) + i, &one, size);
    });
    const auto address = [](const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); };
    // The widest unit that everything is a multiple of.
    const auto all = static_cast<std::uintptr_t>(bytes | pitch) | address(out.data) | address(from.view) |
                     address(from.changed);
    const auto run = [&](auto width) {
        compose_in<decltype(width)::value>(from, reads, boxes, taps, out, bytes, pitch, halves, overlay,
                                           stream);
    };
    if (all % 16 == 0) return run(std::integral_constant<int, 16>{});
    if (all % 4 == 0) return run(std::integral_constant<int, 4>{});
    run(std::integral_constant<int, 2>{});
}

void finish(void* x, int64_t columns, const float* bias, const Cells* residual, const Read* reads,
            const Boxes& boxes, const Epilogue& epilogue, Element element, Stream stream) {
    with(element, [&](auto kind) {
        using T = decltype(kind);
        Finish<T> body{static_cast<T*>(x), columns, bias, residual != nullptr, {}, {}, boxes.box, epilogue};
        if (residual) {
            body.residual = *residual;
            std::copy_n(reads, kAxes, body.reads);
        }
        launch(body, boxes.rows(), columns, stream);
    });
}

void pool(const Cells& from, const Read* reads, const int* kernel, const float* const* divisors, bool maximum,
          const Boxes& boxes, void* out, int64_t columns, Element element, Stream stream) {
    with(element, [&](auto kind) {
        using T = decltype(kind);
        Pool<T> body;
        body.from = from;
        std::copy_n(reads, kAxes, body.reads);
        std::copy_n(kernel, kAxes, body.kernel);
        std::copy_n(divisors, kAxes, body.divisors);
        body.maximum = maximum;
        body.box = boxes.box;
        body.out = static_cast<T*>(out);
        body.columns = columns;
        launch(body, boxes.rows(), columns, stream);
    });
}

void shrink(const Cells& cells, const Boxes& boxes, int64_t columns, float threshold, const void* gradient,
            int* marks, int* left, double* effect, Element element, Stream stream) {
    const int* sizes = boxes.box.sizes;
    clear(marks, static_cast<std::size_t>(boxes.copies) * (sizes[0] + sizes[1] + sizes[2]) * sizeof(int),
          stream);
    clear(effect, static_cast<std::size_t>(boxes.copies) * sizeof(double), stream);
    with(element, [&](auto kind) {
        using T = decltype(kind);
        launch(Mark<T>{cells, boxes.box, columns, threshold, marks}, boxes.rows(), columns, stream);
        launch(Bounds{cells, boxes.box, marks, left}, boxes.copies, 1, stream);
        const auto* slope = static_cast<const char*>(gradient);
        launch(Dropped<T>{cells, boxes.box, columns, slope, left, effect}, boxes.rows(), columns, stream);
    });
}

}  // namespace krypton::cuda
