// The memory of a chunk of positions, laid out before anything runs: how many positions go through which
// operators together, and where the boxes of every value lie meanwhile.
#pragma once

#include <cstddef>
#include <vector>

#include "program.h"

namespace krypton {

// Operators that take equally many positions at a time.
struct Segment {
    std::size_t first, last;  // operators, half-open
    int64_t chunk;            // positions, a power of two
};

// Where the boxes of one value lie.
struct Place {
    std::size_t offset = 0;  // floats, before the first box
    int64_t stride = 0;      // floats from the box of one position to that of the next
    int64_t slots = 0;       // positions with a box of their own; the next one begins anew at the first slot
};

struct Layout {
    std::vector<Segment> segments;
    std::vector<Place> places;  // by value
    int64_t chunk = 1;          // positions of a chunk: those of the last segment, the largest of all
    std::size_t floats = 0;     // of all boxes
    std::size_t scratch = 0;    // bytes that the operator with the most of them needs while it runs
    std::size_t elsewhere = 0;  // the same of what it takes beside the scratch
};

// What the boxes of a run take.
struct Room {
    std::vector<Box> extents;  // by value: the largest box
    Layout layout;
};

// Values whose boxes stay to the end of a chunk: `kept`, and those that layers read.
std::vector<int> read_at_the_end(const Program& program, std::vector<int> kept);

// By value: whether its view is read elsewhere than inside changed boxes, those of `kept` among them.
std::vector<bool> read_elsewhere(const Program& program, const std::vector<int>& kept);

// `extents`: the largest box of every value. `kept`: values that are read at the end of a chunk, beside those
// that layers read.
Layout lay_out(const Program& program, const std::vector<Box>& extents, const std::vector<int>& kept);

// The room of changes of some boxes of the input.
Room room_of(const Program& program, const std::vector<Box>& changes, const std::vector<int>& kept);

}  // namespace krypton
