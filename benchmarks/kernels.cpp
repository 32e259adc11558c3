// What share of a core's measured peak the engine's kernels reach, one family of layers after the other, for
// every instruction set: the table in docs/benchmarks.md. Build and run as it says there.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <numeric>

#include "operators/operators.h"
#include "session.h"

namespace krypton {
namespace {

constexpr int64_t kPositions = 16;
constexpr int kRounds = 7;
constexpr double kSeconds = 0.04;  // of a round, at least

// Median seconds of one call.
double timed(const std::function<void()>& call) {
    using Clock = std::chrono::steady_clock;
    call();
    std::vector<double> rounds;
    for (int r = 0; r < kRounds; ++r) {
        int64_t calls = 0;
        const auto start = Clock::now();
        double seconds = 0;
        do {
            call();
            ++calls;
            seconds = std::chrono::duration<double>(Clock::now() - start).count();
        } while (seconds < kSeconds);
        rounds.push_back(seconds / static_cast<double>(calls));
    }
    std::nth_element(rounds.begin(), rounds.begin() + kRounds / 2, rounds.end());
    return rounds[kRounds / 2];
}

// Operations a second of a loop in registers.
double peak_of(const Kernels& k) {
    constexpr int64_t kTurns = 1 << 17;
    return static_cast<double>(kTurns * k.turn_operations) / timed([&] { k.multiply_add(kTurns); });
}

std::vector<float> noise(int64_t count) {
    std::vector<float> out(count);
    unsigned state = 1;
    for (float& x : out)
        x = static_cast<float>((state = state * 1664525 + 1013904223) >> 8) * 0x1p-24f - 0.5f;
    return out;
}

void say(const char* isa, const char* what, double peak, double operations, double saved, double seconds) {
    const double direct = operations / seconds;
    std::printf("| %s | %s | %.0f | %.0f%% | %.0f%% |\n", isa, what, direct / 1e9, 100 * direct / peak,
                100 * direct / saved / peak);
}

// Boxes of some sizes of outputs at 16 positions, in the middle of a view and read from changed boxes.
double operator_seconds(const Kernels& k, Operator& op, const ByAxis<WindowMap>& maps, int64_t in,
                        int64_t out, const Sizes& sizes) {
    op.operands = {0};
    op.stored = stored_channels(out);
    op.epilogue.low = 0;
    const int64_t stored = stored_channels(in);
    Sizes whole;
    Box box, changed;
    for (Axis axis : kAllAxes) {
        const int64_t stride = maps[axis].stride, first = (maps[axis].n_out - sizes[axis]) / 2;
        whole[axis] = maps[axis].n_in;
        box[axis] = {first, first + sizes[axis]};
        changed[axis] = {box[axis].lo * stride, box[axis].hi * stride};
    }
    const std::vector<float> view = noise(cells_of(whole) * stored);
    const std::vector<float> pixels = noise(kPositions * changed.cells() * stored);
    std::vector<float> outputs(kPositions * box.cells() * op.stored);
    std::vector<Plane> planes;
    for (int64_t p = 0; p < kPositions; ++p)
        planes.push_back({whole, stored, view.data(), pixels.data() + p * changed.cells() * stored, changed});
    std::vector<Job> jobs;
    for (int64_t p = 0; p < kPositions; ++p)
        jobs.push_back({box, outputs.data() + p * box.cells() * op.stored, &planes[p]});
    Scratch scratch(op.scratch_bytes(box, kPositions));
    return timed([&] {
        scratch.reset();
        op.run(k, jobs.data(), kPositions, scratch);
    });
}

WindowMap map(int64_t outputs, int64_t kernel, int64_t stride) {
    const int64_t n_out = outputs + 4;
    return {n_out * stride, n_out, kernel, stride, kernel / 2, 1};
}

const WindowMap kFlat{1, 1, 1, 1, 0, 1};  // an image's depth

void convolutions(const Kernels& k, double peak) {
    struct Case {
        const char* what;
        int64_t ky, kx, stride, in, out, side, groups;
        double saved;  // products of a direct convolution over those that are computed
    };
    for (const Case& c : std::initializer_list<Case>{
             {"3x3, 64 channels, 20x20 cells", 3, 3, 1, 64, 64, 20, 1, 4},
             {"3x3, 128 channels, 16x16", 3, 3, 1, 128, 128, 16, 1, 4},
             {"3x3, 256 channels, 12x12", 3, 3, 1, 256, 256, 12, 1, 4},
             {"3x3, 512 channels, 12x12", 3, 3, 1, 512, 512, 12, 1, 4},
             {"1x7, 192 channels, 12x12", 1, 7, 1, 192, 192, 12, 1, 7.0 / 3},
             {"7x1, 192 channels, 12x12", 7, 1, 1, 192, 192, 12, 1, 7.0 / 3},
             {"5x5, 48 to 64 channels, 12x12", 5, 5, 1, 48, 64, 12, 1, 25.0 / 9},
             {"1x1, 64 to 256 channels, 12x12", 1, 1, 1, 64, 256, 12, 1, 1},
             {"1x1, 512 to 128 channels, 12x12", 1, 1, 1, 512, 128, 12, 1, 1},
             {"3x3 stride 2, 128 to 256 channels, 12x12", 3, 3, 2, 128, 256, 12, 1, 81.0 / 49},
             {"7x7 stride 2, 3 to 64 channels, 12x12", 7, 7, 2, 3, 64, 12, 1, 1},
             {"3x3 in 32 groups, 128 channels, 12x12", 3, 3, 1, 128, 128, 12, 32, 1},
             {"3x3 depthwise, 144 channels, 12x12", 3, 3, 1, 144, 144, 12, 144, 1},
             {"5x5 depthwise, 240 channels, 12x12", 5, 5, 1, 240, 240, 12, 240, 1},
         }) {
        const ByAxis<WindowMap> maps{kFlat, map(c.side, c.ky, c.stride), map(c.side, c.kx, c.stride)};
        const double depth = static_cast<double>(c.ky * c.kx * c.in / c.groups);
        const std::vector<float> weight = noise(c.out * c.in / c.groups * c.ky * c.kx);
        const auto op = make_convolution(k, {maps, c.in, c.out, c.groups}, weight.data(), nullptr);
        const double operations = 2.0 * static_cast<double>(kPositions * c.side * c.side * c.out) * depth;
        say(k.name, c.what, peak, operations, c.saved,
            operator_seconds(k, *op, maps, c.in, c.out, {1, c.side, c.side}));
    }
}

void pools(const Kernels& k, double peak) {
    for (const bool maximum : {true, false}) {
        const int64_t channels = maximum ? 64 : 192, stride = maximum ? 2 : 1;
        const WindowMap m = map(12, 3, stride);
        const std::vector<float> nines(m.n_out, 3.0f);  // which a maximum ignores
        const ByAxis<WindowMap> maps{kFlat, m, m};
        const auto op = make_pool(maps, maximum, {std::vector<float>{1.0f}, nines, nines});
        say(k.name, maximum ? "maximum 3x3 stride 2, 64 channels, 12x12" : "average 3x3, 192 channels, 12x12",
            peak, 9.0 * static_cast<double>(kPositions * 144 * channels), 1,
            operator_seconds(k, *op, maps, channels, channels, {1, 12, 12}));
    }
}

// Through a session of one thread: all of a 7x7 or 1x1 value changes at 256 positions.
void linear(const char* isa, double peak) {
    struct Case {
        const char* what;
        int64_t side, channels, size;
    };
    for (const Case& c :
         std::initializer_list<Case>{{"linear, 7x7x512 to 4096, 256 positions", 7, 512, 4096},
                                     {"linear, 2048 to 1000, 256 positions", 1, 2048, 1000}}) {
        const Sizes sizes{1, c.side, c.side};
        auto program = std::make_shared<Program>(isa, sizes, c.channels);
        const int64_t depth = c.side * c.side * c.channels;
        program->add_cells(0, c.size, noise(depth * c.size).data(), nullptr, {});
        const std::vector<float> input = noise(depth), baseline(depth);
        const Box all = Box::of(sizes);
        const Session session(program, {all}, {}, {}, input.data(), baseline.data(), 1, {});
        const std::vector<Occlusion> positions(256, Occlusion{all, {0, c.channels}});
        std::vector<float> out(256 * c.size);
        const double seconds = timed([&] { session.run(positions, {}, {{0, out.data()}}, nullptr, {}); });
        say(isa, c.what, peak, 2.0 * 256 * static_cast<double>(depth * c.size), 1, seconds);
    }
}

}  // namespace
}  // namespace krypton

int main() {
    using namespace krypton;
    std::printf("| kernels | layer | GFLOP/s of a direct one | of the peak | products of the peak |\n");
    std::printf("|---|---|---|---|---|\n");
    for (const char* const* isa = kernel_names(); *isa; ++isa) {
        const Kernels& k = *kernels(*isa);
        k.flush_denormals();
        const double peak = peak_of(k);
        std::printf("| %s | *peak of the core* | *%.0f* | | |\n", *isa, peak / 1e9);
        convolutions(k, peak);
        pools(k, peak);
        linear(*isa, peak);
        std::fflush(stdout);
    }
}
