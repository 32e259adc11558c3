#include "layout.h"

#include <algorithm>

namespace krypton {

namespace {

constexpr int64_t kChunkBytes = 512 * 1024;  // boxes that an operator's chunk should keep in the cache
constexpr int64_t kMostBytes = 32 << 20;     // of its boxes, where there are several
constexpr int64_t kMostPositions = 32;       // of a chunk
constexpr int64_t kAlignFloats = 16;         // boxes begin at cache lines

bool changes(const Program& program, int value) { return program.values()[value].constant.empty(); }

int64_t box_floats(const Program& program, const std::vector<Box>& extents, int value) {
    return changes(program, value) ? extents[value].cells() * program.values()[value].stored() : 0;
}

int64_t power_of_two(int64_t n) {
    int64_t p = 1;
    while (2 * p <= n) p *= 2;
    return p;
}

// Bytes of the boxes that an operator reads and makes for a position, at least 1.
int64_t box_bytes(const Program& program, const std::vector<Box>& extents, const Operator& op) {
    int64_t floats = box_floats(program, extents, op.value);
    for (int operand : op.operands) floats += box_floats(program, extents, operand);
    return std::max<int64_t>(floats * 4, 1);
}

// Positions that an operator would best take at a time: as many as fit the cache, or more where its weights
// are better read once for all.
int64_t preferred_chunk(const Program& program, const std::vector<Box>& extents, const Operator& op) {
    const int64_t by_cache = kChunkBytes / box_bytes(program, extents, op);
    const int64_t cells = std::max<int64_t>(extents[op.value].cells(), 1);
    const int64_t by_weights = (op.preferred_cells() + cells - 1) / cells;
    return power_of_two(std::clamp<int64_t>(std::max(by_cache, by_weights), 1, kMostPositions));
}

// Chunks only grow from segment to segment, so that those of one are a whole number of the one before. What
// an operator can hold of a network that widens again, as a U-Net does, therefore bounds those before it.
std::vector<Segment> segments_of(const Program& program, const std::vector<Box>& extents) {
    const auto& ops = program.operators();
    std::vector<int64_t> most(ops.size() + 1, kMostPositions);
    for (std::size_t i = ops.size(); i-- > 0;)
        most[i] = std::min(most[i + 1], power_of_two(kMostBytes / box_bytes(program, extents, *ops[i])));
    std::vector<Segment> segments;
    for (std::size_t i = 0; i < ops.size(); ++i) {
        const bool global = program.values()[ops[i]->value].global;  // few numbers: takes what there is
        const int64_t want = global ? 1 : std::min(most[i], preferred_chunk(program, extents, *ops[i]));
        if (segments.empty() || want > segments.back().chunk) segments.push_back({i, i, want});
        segments.back().last = i + 1;
    }
    return segments;
}

// Operators during which a value's boxes are needed, both ends included, and boxes that exist at a time.
struct Life {
    std::size_t first = 0, last = 0;
    int64_t slots = 1;

    bool meets(const Life& other) const { return first <= other.last && other.first <= last; }
};

std::vector<Life> lives_of(const Program& program, const std::vector<Segment>& segments,
                           const std::vector<int>& kept) {
    const auto& ops = program.operators();
    std::vector<Life> lives(program.values().size());
    if (segments.empty()) return lives;
    for (std::size_t i = 0; i < ops.size(); ++i) {
        lives[ops[i]->value].first = lives[ops[i]->value].last = i;
        for (int operand : ops[i]->operands) lives[operand].last = i;
    }
    std::vector<bool> stays(lives.size(), false);
    for (int v : read_at_the_end(program, kept)) stays[v] = true;
    const auto segment_of = [&](std::size_t op) -> const Segment& {
        return *std::find_if(segments.begin(), segments.end(), [&](const Segment& s) { return op < s.last; });
    };
    for (std::size_t v = 0; v < lives.size(); ++v) {
        Life& life = lives[v];
        const Segment &from = segment_of(life.first), &to = segment_of(life.last);
        life.slots = from.chunk;
        if (&from == &to && !stays[v]) continue;
        // Leaves its segment, which is passed once for every smaller chunk: the boxes of the first one must
        // outlive all operators of the segment as they take the others.
        life.slots = segments.back().chunk;
        life.first = from.first;
        life.last = stays[v] ? ops.size() : to.last - 1;
    }
    return lives;
}

struct Taken {
    std::size_t begin, end;
    Life life;
};

// First fit among what is taken while a value lives.
std::size_t first_fit(std::vector<Taken>& taken, std::size_t size, const Life& life) {
    std::sort(taken.begin(), taken.end(), [](const Taken& a, const Taken& b) { return a.begin < b.begin; });
    std::size_t offset = 0;
    for (const Taken& t : taken) {
        if (!t.life.meets(life)) continue;
        if (offset + size <= t.begin) break;
        offset = std::max(offset, t.end);
    }
    taken.push_back({offset, offset + size, life});
    return offset;
}

}  // namespace

std::vector<int> read_at_the_end(const Program& program, std::vector<int> kept) {
    for (const RowLayer& layer : program.layers())
        if (layer.kind != RowLayer::kDense) kept.push_back(layer.operand);
    return kept;
}

std::vector<bool> read_elsewhere(const Program& program, const std::vector<int>& kept) {
    std::vector<bool> read(program.values().size(), false);
    read[0] = true;
    for (int v : read_at_the_end(program, kept)) read[v] = true;
    for (const auto& op : program.operators()) {
        if (op->totals()) read[op->value] = true;
        for (std::size_t i = 0; i < op->operands.size(); ++i)
            if (op->reads_context(static_cast<int>(i))) read[op->operands[i]] = true;
    }
    return read;
}

Layout lay_out(const Program& program, const std::vector<Box>& extents, const std::vector<int>& kept) {
    Layout layout;
    layout.segments = segments_of(program, extents);
    if (!layout.segments.empty()) layout.chunk = layout.segments.back().chunk;
    const std::vector<Life> lives = lives_of(program, layout.segments, kept);
    layout.places.resize(lives.size());
    std::vector<Taken> taken;
    for (int v = 0; v < static_cast<int>(lives.size()); ++v) {
        if (!changes(program, v)) continue;
        Place& place = layout.places[v];
        place.slots = lives[v].slots;
        place.stride = (box_floats(program, extents, v) + kAlignFloats - 1) / kAlignFloats * kAlignFloats;
        const std::size_t size = static_cast<std::size_t>(place.stride * place.slots);
        place.offset = first_fit(taken, size, lives[v]);
        layout.floats = std::max(layout.floats, place.offset + size);
    }
    for (const Segment& segment : layout.segments)
        for (std::size_t i = segment.first; i < segment.last; ++i) {
            const Operator& op = *program.operators()[i];
            layout.scratch = std::max(layout.scratch, op.scratch_bytes(extents[op.value], segment.chunk));
            layout.elsewhere =
                std::max(layout.elsewhere, op.bytes_elsewhere(extents[op.value], segment.chunk));
        }
    return layout;
}

Room room_of(const Program& program, const std::vector<Box>& changes, const std::vector<int>& kept) {
    Room room{std::vector<Box>(program.values().size()), {}};
    std::vector<Box> boxes(program.values().size()), in;
    for (const Box& change : changes) {
        boxes[0] = change;
        for (const auto& op : program.operators()) {
            in.clear();
            for (int operand : op->operands) in.push_back(boxes[operand]);
            boxes[op->value] = op->reach(in.data());
        }
        for (std::size_t v = 0; v < boxes.size(); ++v) {
            for (Axis axis : kAllAxes)
                room.extents[v][axis].hi = std::max(room.extents[v][axis].hi, boxes[v][axis].size());
        }
    }
    room.layout = lay_out(program, room.extents, kept);
    return room;
}

}  // namespace krypton
