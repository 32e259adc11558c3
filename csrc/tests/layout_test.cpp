// How memory is laid out. Runs `layout_test [rounds] [seed]`.
#include "layout.h"
#include "operators/operators.h"
#include "testing.h"

namespace krypton::testing {
namespace {

// A chain of operators on values of 8 x 8 cells and 16 channels, all of which change.
struct Chain {
    Program program{"", {1, 8, 8}, 16};
    std::vector<Box> extents;

    explicit Chain(int operators) : extents(operators + 1, Box::of({1, 8, 8})) {
        for (int i = 0; i < operators; ++i) program.add(make_combine(kAdd, {}, {}), {i}, {1, 8, 8}, 16, {});
    }
};

constexpr std::size_t kBoxFloats = 8 * 8 * 16;

// An operator's operand and its result are all that a chain needs, however long it is.
void test_chain_takes_two_boxes() {
    for (int operators : {1, 2, 9}) {
        const Chain chain(operators);
        const Layout layout = lay_out(chain.program, chain.extents, {});
        check(layout.segments.size() == 1 && layout.segments[0].first == 0 &&
                  layout.segments[0].last == static_cast<std::size_t>(operators),
              "equal operators are of one segment");
        check(layout.floats == 2 * kBoxFloats * layout.chunk, "a chain of ", operators, " takes ",
              layout.floats, " floats");
    }
}

// A value that is read at the end has memory of its own, whether it was asked for or a layer reads it.
void test_values_that_stay() {
    Chain chain(9);
    check(lay_out(chain.program, chain.extents, {3}).floats ==
              3 * kBoxFloats * lay_out(chain.program, chain.extents, {3}).chunk,
          "a value that is kept");
    chain.program.add_mean(4, {});
    const Layout layout = lay_out(chain.program, chain.extents, {});
    check(read_at_the_end(chain.program, {2}) == std::vector<int>{2, 4}, "values read at the end");
    check(layout.floats == 3 * kBoxFloats * layout.chunk, "a value that a layer reads");
}

void test_no_operators() {
    const Chain chain(0);
    const Layout layout = lay_out(chain.program, chain.extents, {0});
    check(layout.segments.empty() && layout.chunk == 1 && layout.scratch == 0 && layout.floats == kBoxFloats,
          "a program without operators has one box, of the input");
}

// Large boxes go through their operators in small chunks, the small ones after them in large chunks.
void test_small_boxes_go_together() {
    Program program("", {1, 64, 64}, 16);
    const WindowMap window{64, 4, 16, 16, 0, 1};
    program.add(make_combine(kAdd, {}, {}), {0}, {1, 64, 64}, 16, {});
    program.add(make_pool({alone(), window, window}, true, {}), {1}, {1, 4, 4}, 16, {});
    program.add(make_combine(kAdd, {}, {}), {2}, {1, 4, 4}, 16, {});
    const Box large = Box::of({1, 64, 64}), small = Box::of({1, 4, 4});
    const Layout layout = lay_out(program, {large, large, small, small}, {});
    check(layout.segments.size() == 2 && layout.segments[0].last == 2 && layout.segments[1].first == 2,
          "two segments");
    check(layout.segments[0].chunk == 1 && layout.segments[1].chunk == 32 && layout.chunk == 32,
          "chunks that fit the cache");
    check(layout.places[0].slots == 1 && layout.places[1].slots == 1 && layout.places[2].slots == 32,
          "places for the positions of a chunk");
}

// Boxes that grow again, as a U-Net's do, bound how many of the small ones before them there are at a time.
void test_small_boxes_that_grow() {
    Program program("", {1, 512, 512}, 16);
    for (int i = 0; i < 2; ++i) program.add(make_combine(kAdd, {}, {}), {i}, {1, 512, 512}, 16, {});
    const Box small = Box::of({1, 4, 4});
    for (const auto& [side, most] : {std::pair{4, 32}, {256, 4}, {512, 1}}) {
        const Layout layout = lay_out(program, {small, small, Box::of({1, side, side})}, {});
        check(layout.chunk == most, "boxes of ", side, " x ", side, " lie in chunks of ", layout.chunk);
    }
}

// Plays the schedule of a random program and asks at every step whether what is read is still there.
void test_schedule(int64_t seed) {
    constexpr Sizes kWhole = {3, 64, 64};
    Random random(seed);
    Program program("", kWhole, 16);
    std::vector<Box> extents;
    const auto extent = [&] {
        const int64_t side = random.choice<int64_t>({1, 4, 16, 40, 64});
        extents.push_back(Box::of({random.deep(3), side, side}));
    };
    extent();
    for (int64_t i = 0, n = random.between(1, 12); i < n; ++i) {
        std::vector<int> operands;
        const int64_t last = static_cast<int64_t>(extents.size()) - 1;
        do operands.push_back(static_cast<int>(random.chance(0.6) ? last : random.between(0, last)));
        while (random.chance(0.3));
        program.add(make_concat({}, {}, {}), operands, kWhole, 16 * random.between(1, 4), {});
        extent();
    }
    std::vector<int> kept;
    for (std::size_t v = 0; v < extents.size(); ++v)
        if (random.chance(0.2)) kept.push_back(static_cast<int>(v));
    const int64_t values = static_cast<int64_t>(extents.size());
    while (random.chance(0.3)) program.add_mean(static_cast<int>(random.between(0, values - 1)), {});
    const Layout layout = lay_out(program, extents, kept);
    for (std::size_t s = 1; s < layout.segments.size(); ++s)
        check(layout.segments[s].chunk % layout.segments[s - 1].chunk == 0 &&
                  layout.segments[s].first == layout.segments[s - 1].last,
              "seed ", seed, ": segments that do not fit each other");

    std::vector<std::pair<int, int64_t>> owner(layout.floats / 16 + 1,
                                               {-1, -1});  // value and position, by cache line
    const auto lines = [&](int v, int64_t p) {
        const Place& place = layout.places[v];
        const std::size_t begin = place.offset + p % place.slots * place.stride;
        const std::size_t end = begin + extents[v].cells() * program.values()[v].stored();
        check(end <= layout.floats && place.offset % 16 == 0 && place.stride % 16 == 0, "seed ", seed,
              ": a place outside");
        return std::pair{begin / 16, end / 16};
    };
    const auto write = [&](int v, int64_t p) {
        const auto [begin, end] = lines(v, p);
        std::fill(owner.begin() + begin, owner.begin() + end, std::pair{v, p});
    };
    const auto read = [&](int v, int64_t p) {
        const auto [begin, end] = lines(v, p);
        for (std::size_t i = begin; i < end; ++i)
            if (owner[i] != std::pair{v, p})
                return check(false, "seed ", seed, ": value ", v, " of position ", p,
                             " was overwritten by value ", owner[i].first, " of position ", owner[i].second);
        check(true, " ");
    };
    for (const Segment& segment : layout.segments)
        for (int64_t from = 0; from < layout.chunk; from += segment.chunk) {
            if (segment.first == 0)
                for (int64_t p = from; p < from + segment.chunk; ++p) write(0, p);
            for (std::size_t i = segment.first; i < segment.last; ++i)
                for (int64_t p = from; p < from + segment.chunk; ++p) {
                    write(program.operators()[i]->value, p);
                    for (int v : program.operators()[i]->operands) read(v, p);
                }
        }
    for (int v : read_at_the_end(program, kept))
        for (int64_t p = 0; p < layout.chunk; ++p) read(v, p);
}

}  // namespace
}  // namespace krypton::testing

int main(int argc, char** argv) {
    using namespace krypton;
    testing::test_chain_takes_two_boxes();
    testing::test_values_that_stay();
    testing::test_no_operators();
    testing::test_small_boxes_go_together();
    testing::test_small_boxes_that_grow();
    for (int64_t seed : testing::seeds(argc, argv, 150)) testing::test_schedule(seed);
    return testing::report("layout");
}
