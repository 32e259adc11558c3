// The bodies of the CUDA kernels, in loops on the host, against values that are put together cell by cell;
// and what they cut off boxes against the CPU engine.
#include "testing.h"

#include <array>

#include "cuda/kernels.h"
#include "shrink.h"

namespace krypton::testing {
namespace {

using cuda::kAxes;
using At = std::array<int, kAxes>;

// Elements of a type, as bytes.
struct Elements {
    cuda::Element element;
    std::vector<std::uint16_t> halves;

    explicit Elements(cuda::Element kind, int64_t count = 0, float fill = 0) : element(kind) {
        for (int64_t i = 0; i < count; ++i) push(fill);
    }
    int64_t width() const { return element == cuda::Element::kFloat ? 2 : 1; }
    void push(float x) {
        if (element == cuda::Element::kHalf) return halves.push_back(cuda::from_float<cuda::Half>(x).bits);
        if (element == cuda::Element::kBFloat)
            return halves.push_back(cuda::from_float<cuda::BFloat>(x).bits);
        const std::uint32_t bits = cuda::bits_of(x);
        halves.push_back(static_cast<std::uint16_t>(bits));
        halves.push_back(static_cast<std::uint16_t>(bits >> 16));
    }
    float operator[](int64_t i) const {
        if (element == cuda::Element::kHalf) return cuda::to_float(cuda::Half{halves[i]});
        if (element == cuda::Element::kBFloat) return cuda::to_float(cuda::BFloat{halves[i]});
        return cuda::float_of(static_cast<std::uint32_t>(halves[2 * i + 1]) << 16 | halves[2 * i]);
    }
    const char* data() const { return reinterpret_cast<const char*>(halves.data()); }
    char* data() { return reinterpret_cast<char*>(halves.data()); }
};

// A value of several copies: the kernels see view and boxes, the checks see every copy's whole.
struct Value {
    At sizes, extents;
    int64_t copies, columns;
    std::vector<int> start[kAxes], lo[kAxes], hi[kAxes], place;
    Elements view, boxes;
    bool changes;

    Value(Random& random, const At& of, int64_t n, int64_t c, cuda::Element element)
        : sizes(of), copies(n), columns(c), view(element), boxes(element), changes(random.chance(0.9)) {
        for (int k = 0; k < kAxes; ++k) {
            extents[k] = static_cast<int>(random.between(1, sizes[k]));
            for (int64_t i = 0; i < copies; ++i) {
                const int first = static_cast<int>(random.between(0, sizes[k] - extents[k]));
                const Interval left = random.interval(extents[k]);
                start[k].push_back(first);
                lo[k].push_back(first + static_cast<int>(left.lo));
                hi[k].push_back(first + static_cast<int>(random.chance(0.1) ? left.lo : left.hi));
            }
        }
        // The copies' boxes in another order, with room between.
        for (int64_t i = 0; i < copies; ++i) place.push_back(static_cast<int>(2 * (copies - 1 - i)));
        const int64_t cells = int64_t{extents[0]} * extents[1] * extents[2];
        for (int64_t i = 0; i < int64_t{sizes[0]} * sizes[1] * sizes[2] * columns; ++i)
            view.push(random.small_integer());
        for (int64_t i = 0; i < 2 * copies * cells * columns; ++i) boxes.push(random.small_integer());
    }
    cuda::Cells cells() const {
        cuda::Cells out{view.data(), changes ? boxes.data() : nullptr, place.data(), {}};
        for (int k = 0; k < kAxes; ++k)
            out.axes[k] = {sizes[k], extents[k], start[k].data(), lo[k].data(), hi[k].data()};
        return out;
    }
    bool holds(const At& at) const {
        for (int k = 0; k < kAxes; ++k)
            if (at[k] < 0 || at[k] >= sizes[k]) return false;
        return true;
    }
    bool changed(int64_t copy, const At& at) const {
        for (int k = 0; k < kAxes; ++k)
            if (at[k] < lo[k][copy] || at[k] >= hi[k][copy]) return false;
        return changes;
    }
    float at(int64_t copy, const At& at, int64_t c) const {
        int64_t row = 0, in_boxes = place[copy];
        for (int k = 0; k < kAxes; ++k) {
            row = row * sizes[k] + at[k];
            in_boxes = in_boxes * extents[k] + at[k] - start[k][copy];
        }
        return changed(copy, at) ? boxes[in_boxes * columns + c] : view[row * columns + c];
    }
};

At random_sizes(Random& random) {
    return {static_cast<int>(random.between(1, 3)), static_cast<int>(random.between(1, 9)),
            static_cast<int>(random.between(1, 9))};
}

// visit(row, copy, at) for all cells of boxes.
template <typename Visit>
void for_cells(const cuda::Boxes& boxes, const Visit& visit) {
    int64_t row = 0;
    const int* n = boxes.box.sizes;
    for (int64_t copy = 0; copy < boxes.copies; ++copy)
        for (int i = 0; i < n[0]; ++i)
            for (int j = 0; j < n[1]; ++j)
                for (int k = 0; k < n[2]; ++k) visit(row++, copy, At{i, j, k});
}

struct Steps {
    cuda::Read reads[kAxes];
    std::vector<int> start[kAxes], sources[kAxes];
    cuda::Boxes boxes;

    // Boxes that read a value through windows, or through moved cells.
    Steps(Random& random, const Value& of, bool moves) : boxes{{}, of.copies} {
        for (int k = 0; k < kAxes; ++k) {
            const int outputs = static_cast<int>(random.between(1, 12));
            boxes.box.sizes[k] = static_cast<int>(random.between(1, outputs));
            for (int64_t i = 0; i < of.copies; ++i)
                start[k].push_back(static_cast<int>(random.between(0, outputs - boxes.box.sizes[k])));
            cuda::Read& read = reads[k];
            if (random.chance(0.9))
                read.start = start[k].data();
            else
                std::fill(start[k].begin(), start[k].end(), 0);
            if (moves && random.chance(0.6)) {
                for (int i = 0; i < outputs; ++i)
                    sources[k].push_back(static_cast<int>(random.between(-1, of.sizes[k] - 1)));
                read.sources = sources[k].data();
            } else {
                read.stride = static_cast<int>(random.between(1, 3));
                read.padding = static_cast<int>(random.between(0, 3));
                read.dilation = static_cast<int>(random.between(1, 2));
            }
        }
    }
    At cell(int64_t copy, const At& i) const {
        At out;
        for (int k = 0; k < kAxes; ++k) {
            const int first = start[k][copy];
            out[k] = reads[k].sources ? sources[k][first + i[k]]
                                      : first * reads[k].stride - reads[k].padding + reads[k].dilation * i[k];
        }
        return out;
    }
};

cuda::Element random_element(Random& random) {
    return random.choice<cuda::Element>(
        {cuda::Element::kFloat, cuda::Element::kHalf, cuda::Element::kBFloat});
}

int64_t random_columns(Random& random) { return random.choice<int64_t>({1, 2, 3, 4, 6, 8, 16, 33}); }

void test_compose(Random& random) {
    const cuda::Element element = random_element(random);
    const int64_t columns = random_columns(random);
    const Value value(random, random_sizes(random), random.between(1, 4), columns, element);
    const Steps steps(random, value, true);
    const int64_t pitch = columns + random.choice<int64_t>({0, 0, 1, 8});
    cuda::Taps taps;
    for (int k = 0; k < kAxes && random.chance(0.5); ++k) {
        taps.box.sizes[k] = static_cast<int>(random.between(1, 3));
        taps.steps[k] = static_cast<int>(random.between(1, 3));
    }
    const int64_t each = taps.box.cells(), rows = steps.boxes.rows() * each;
    const bool overlay = random.chance(0.3);
    const float fill = random.choice<float>({0, -INFINITY, 3});
    Elements out(element, rows * pitch, 99);
    // All copies at once, or first some and then the rest.
    const int64_t some = random.between(0, steps.boxes.copies), box = steps.boxes.box.cells();
    for (const auto& [first, last] : {std::pair{int64_t{0}, some}, std::pair{some, steps.boxes.copies}}) {
        cuda::Boxes part{steps.boxes.box, last - first, first};
        char* to = out.data() + first * box * each * pitch * out.width() * 2;
        cuda::compose(value.cells(), steps.reads, part, taps, {to, pitch}, columns, fill, overlay, element,
                      nullptr);
    }
    for_cells(steps.boxes, [&](int64_t cell, int64_t copy, const At& i) {
        for_cells({taps.box, 1}, [&](int64_t tap, int64_t, const At& t) {
            At at = steps.cell(copy, i);
            for (int k = 0; k < kAxes; ++k) at[k] += taps.steps[k] * t[k];
            const int64_t row = cell * each + tap;
            for (int64_t c = 0; c < pitch; ++c) {
                const float expected = c >= columns      ? 99.0f
                                       : value.holds(at) ? value.at(copy, at, c)
                                       : overlay         ? 99.0f
                                                         : fill;
                check(out[row * pitch + c] == expected, "compose: row ", row, " column ", c, " is ",
                      out[row * pitch + c], ", not ", expected);
            }
        });
    });
}

double finished_by(const cuda::Epilogue& epilogue, double x) {
    if (!std::isnan(x)) x = std::clamp<double>(x, epilogue.low, epilogue.high);
    return function_of(epilogue.function, x, epilogue.parameter);
}

void test_finish(Random& random) {
    const cuda::Element element = random_element(random);
    const int64_t columns = random_columns(random);
    const At sizes = random_sizes(random);
    const Value value(random, sizes, random.between(1, 4), columns, element);
    cuda::Boxes boxes{{}, value.copies};
    cuda::Read reads[kAxes];
    std::vector<int> start[kAxes];
    for (int k = 0; k < kAxes; ++k) {
        boxes.box.sizes[k] = static_cast<int>(random.between(1, sizes[k]));
        for (int64_t i = 0; i < value.copies; ++i)
            start[k].push_back(static_cast<int>(random.between(0, sizes[k] - boxes.box.sizes[k])));
        reads[k].start = start[k].data();
    }
    Elements x(element);
    for (int64_t i = 0; i < boxes.rows() * columns; ++i)
        x.push(random.chance(0.02) ? NAN : random.small_integer());
    const Elements before = x;
    const std::vector<float> bias = random.integers(columns);
    const bool biased = random.chance(0.7), adds = random.chance(0.6);
    const auto function = static_cast<Function>(random.chance(0.3) ? 0 : random.between(1, kFunctions - 1));
    const cuda::Epilogue epilogue{function, random.choice<float>({-INFINITY, 0}),
                                  random.choice<float>({INFINITY, 6}), random.choice<float>({0.25f, 1})};
    const cuda::Cells cells = value.cells();
    cuda::finish(x.data(), columns, biased ? bias.data() : nullptr, adds ? &cells : nullptr, reads, boxes,
                 epilogue, element, nullptr);
    const double precision = element == cuda::Element::kFloat  ? 1e-6
                             : element == cuda::Element::kHalf ? 0x1p-11
                                                               : 0x1p-8;
    for_cells(boxes, [&](int64_t row, int64_t copy, const At& i) {
        At at;
        for (int k = 0; k < kAxes; ++k) at[k] = start[k][copy] + i[k];
        for (int64_t c = 0; c < columns; ++c) {
            double sum = double{before[row * columns + c]} + (biased ? double{bias[c]} : 0.0);
            if (adds) sum += value.at(copy, at, c);
            const double expected = finished_by(epilogue, sum), found = x[row * columns + c];
            check(close(found, expected, precision * (1 + std::abs(expected))), "finish: row ", row,
                  " column ", c, " is ", found, ", not ", expected);
        }
    });
}

void test_pool(Random& random) {
    const cuda::Element element = random_element(random);
    const int64_t columns = random_columns(random);
    const Value value(random, random_sizes(random), random.between(1, 4), columns, element);
    Steps steps(random, value, false);
    const bool maximum = random.chance(0.5), global = random.chance(0.3);
    int kernel[kAxes];
    std::vector<float> counts[kAxes];
    const float* divisors[kAxes] = {nullptr, nullptr, nullptr};
    for (int k = 0; k < kAxes; ++k) {
        kernel[k] = static_cast<int>(random.between(1, 3));
        if (global) {
            kernel[k] = value.sizes[k];
            steps.reads[k] = cuda::Read{};
            steps.boxes.box.sizes[k] = 1;
            std::fill(steps.start[k].begin(), steps.start[k].end(), 0);
        }
        for (int i = 0; i < 16; ++i) counts[k].push_back(static_cast<float>(1 << random.between(0, 2)));
        if (random.chance(0.8)) divisors[k] = counts[k].data();
    }
    Elements out(element, steps.boxes.rows() * columns);
    cuda::pool(value.cells(), steps.reads, kernel, divisors, maximum, steps.boxes, out.data(), columns,
               element, nullptr);
    for_cells(steps.boxes, [&](int64_t row, int64_t copy, const At& i) {
        double divisor = 1;
        At first;
        for (int k = 0; k < kAxes; ++k) {
            const int output = steps.start[k][copy] + i[k];
            if (divisors[k]) divisor *= counts[k][output];
            first[k] = output * steps.reads[k].stride - steps.reads[k].padding;
        }
        for (int64_t c = 0; c < columns; ++c) {
            double sum = 0, most = -INFINITY;
            for_cells({{{kernel[0], kernel[1], kernel[2]}}, 1}, [&](int64_t, int64_t, const At& tap) {
                At at;
                for (int k = 0; k < kAxes; ++k) at[k] = first[k] + steps.reads[k].dilation * tap[k];
                if (!value.holds(at)) return;
                sum += value.at(copy, at, c);
                most = std::max(most, double{value.at(copy, at, c)});
            });
            const double expected = maximum ? most : sum / divisor, found = out[row * columns + c];
            const double tolerance = element == cuda::Element::kFloat ? 1e-6 : 0x1p-8;
            check(close(found, expected, tolerance * (1 + std::abs(expected))), "pool: row ", row, " column ",
                  c, " is ", found, ", not ", expected);
        }
    });
}

// One copy's box, as the CPU engine cuts it.
void test_shrink(Random& random) {
    const int64_t columns = 8;  // so that the engine stores no more
    const At sizes = random_sizes(random);
    Value value(random, sizes, random.between(1, 4), columns, cuda::Element::kFloat);
    value.changes = true;
    const float threshold = random.choice<float>({2, 6, 7, 8, 20});
    const Sizes whole{sizes[0], sizes[1], sizes[2]};
    Elements gradient(cuda::Element::kFloat);
    std::vector<float> slope = random.integers(cells_of(whole) * columns);
    for (float g : slope) gradient.push(g);
    const At& extents = value.extents;
    const cuda::Boxes boxes{{{extents[0], extents[1], extents[2]}}, value.copies};
    std::vector<int> marks(value.copies * (extents[0] + extents[1] + extents[2]), 5);
    std::vector<int> left(value.copies * kAxes * 2);
    std::vector<double> effect(value.copies, 5);
    cuda::shrink(value.cells(), boxes, columns, threshold, gradient.data(), marks.data(), left.data(),
                 effect.data(), cuda::Element::kFloat, nullptr);
    std::vector<float> view;
    for (int64_t i = 0; i < cells_of(whole) * columns; ++i) view.push_back(value.view[i]);
    for (int64_t copy = 0; copy < value.copies; ++copy) {
        Box box, found;
        for (int k = 0; k < kAxes; ++k) {
            const int* mine = left.data() + (copy * kAxes + k) * 2;
            box[k] = {value.lo[k][copy], value.hi[k][copy]};
            found[k] = {mine[0], mine[1]};
        }
        if (box.empty()) continue;
        std::vector<float> pixels;
        for_box(box, [&](const Corner& cell) {
            const auto [z, y, x] = cell;
            const At at{static_cast<int>(z), static_cast<int>(y), static_cast<int>(x)};
            for (int64_t c = 0; c < columns; ++c) pixels.push_back(value.at(copy, at, c));
        });
        double expected = 0;
        const Plane plane{whole, columns, view.data(), pixels.data(), box};
        const Box kept = shrunk({threshold, slope}, plane, pixels.data(), expected);
        check(same(found, kept), "shrink: copy ", copy, " keeps ", found, ", not ", kept);
        check(close(effect[copy], expected, 1e-9), "shrink: the effect of copy ", copy, " is ", effect[copy],
              ", not ", expected);
    }
}

// Every number of 16 bits and back; and what lies between two of them goes to the nearer.
template <typename T>
void test_element(const char* name, double (*meaning)(std::uint16_t)) {
    for (int bits = 0; bits < 1 << 16; ++bits) {
        const T x{static_cast<std::uint16_t>(bits)};
        const double expected = meaning(x.bits), found = cuda::to_float(x);
        check(close(found, expected, 0), name, " ", bits, " is ", found, ", not ", expected);
        if (std::isnan(expected)) {
            check(std::isnan(cuda::to_float(cuda::from_float<T>(static_cast<float>(found)))), name, " NaN");
            continue;
        }
        check(cuda::from_float<T>(static_cast<float>(found)).bits == bits, name, " ", bits,
              " does not come back");
        const double next = meaning(static_cast<std::uint16_t>(bits + 1));
        if (std::isinf(expected) || !std::isfinite(next) || (bits & 0x7fff) == 0x7fff) continue;
        const float middle = static_cast<float>((expected + next) / 2);
        const int even = bits & 1 ? bits + 1 : bits;
        check(cuda::from_float<T>(middle).bits == even, name, ": a tie above ", bits);
        check(cuda::from_float<T>(std::nextafter(middle, static_cast<float>(expected))).bits == bits, name,
              ": below a tie above ", bits);
        check(cuda::from_float<T>(std::nextafter(middle, static_cast<float>(next))).bits == bits + 1, name,
              ": above a tie above ", bits);
    }
}

double number_of(std::uint16_t bits, int exponent_bits) {
    const int fraction_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
    const int fraction = bits & ((1 << fraction_bits) - 1);
    const double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == (1 << exponent_bits) - 1) return fraction ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
    return sign * std::ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
}

}  // namespace
}  // namespace krypton::testing

int main(int argc, char** argv) {
    using namespace krypton;
    testing::test_element<cuda::Half>("half", [](std::uint16_t bits) { return testing::number_of(bits, 5); });
    testing::test_element<cuda::BFloat>("bfloat",
                                        [](std::uint16_t bits) { return testing::number_of(bits, 8); });
    testing::Random random(20261125);
    for (int i = argc > 1 ? std::atoi(argv[1]) : 2000; i > 0; --i) {
        testing::test_compose(random);
        testing::test_finish(random);
        testing::test_pool(random);
        testing::test_shrink(random);
    }
    return testing::report("boxes");
}
