#include "chunk.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace krypton {

void Memory::fit(const Layout& layout) {
    if (layout.floats > floats_) {
        boxes_.reset();  // before as much again is taken
        floats_ = 0;
        boxes_.reset(static_cast<float*>(::operator new(layout.floats * sizeof(float), kAlign)));
        floats_ = layout.floats;
    }
    if (layout.scratch > scratch_bytes_) {
        scratch_ = Scratch(layout.scratch);
        scratch_bytes_ = layout.scratch;
    }
}

std::unique_ptr<Memory> Memories::take() {
    const std::lock_guard guard(lock_);
    if (free_.empty()) return std::make_unique<Memory>();
    std::unique_ptr<Memory> memory = std::move(free_.back());
    free_.pop_back();
    return memory;
}

void Memories::give(std::unique_ptr<Memory> memory) {
    const std::lock_guard guard(lock_);
    free_.push_back(std::move(memory));
}

Chunk::Chunk(const Basis& basis, const Room& room, Memory& memory, Costs* costs)
    : basis_(basis),
      room_(room),
      program_(*basis.program),
      costs_(costs),
      memory_(memory),
      boxes_(program_.values().size() * room.layout.chunk),
      views_(room.layout.chunk) {
    memory_.fit(room.layout);
}

float* Chunk::pixels(int value, int64_t position) const {
    const Place& place = room_.layout.places[value];
    return memory_.boxes() + place.offset + position % place.slots * place.stride;
}

Plane Chunk::plane(int value, int64_t position) const {
    Plane plane = views_[position]->plane(value);
    if (program_.values()[value].constant.empty()) {
        plane.changed = pixels(value, position);
        plane.box = box(value, position);
    }
    return plane;
}

void Chunk::claim(int value, int64_t position, const Box& claimed) {
    const Box& extent = room_.extents[value];
    for (Axis axis : kAllAxes)
        if (claimed[axis].size() > extent[axis].size())
            throw std::invalid_argument("a box of value " + std::to_string(value) +
                                        " is larger than was planned");
    box(value, position) = claimed;
}

void Chunk::occlude(int64_t position, const Occlusion& at) {
    claim(0, position, at.box);
    const Plane view = views_[position]->plane(0);
    const float* baseline = basis_.baseline.data() + at.channels.lo;
    const float* contents = at.contents;
    float* out = pixels(0, position);
    for_rows(at.box, view.sizes, [&](int64_t first) {
        for (int64_t cell = first; cell < first + at.box[kX].size(); ++cell, out += view.channels) {
            const int64_t i = cell * view.channels;
            std::copy_n(view.view + i, view.channels, out);
            std::copy_n(contents ? contents : baseline + i, at.channels.size(), out + at.channels.lo);
            if (contents) contents += at.channels.size();
        }
    });
}

void Chunk::occlude(const Occlusion* positions, int64_t from, int64_t to) {
    const Stopwatch watch(cost(0));
    for (int64_t p = from; p < to; ++p) occlude(p, positions[p - from]);
    if (Cost* input = cost(0))
        for (int64_t p = from; p < to; ++p) input->cells += box(0, p).cells();
}

void Chunk::compute(const Operator& op, int64_t from, int64_t to) {
    const Stopwatch watch(cost(op.value));
    const std::size_t operands = op.operands.size();
    jobs_.clear();
    operands_.resize((to - from) * operands);
    Plane* in = operands_.data();
    changed_.resize(operands);
    for (int64_t p = from; p < to; ++p) {
        for (std::size_t i = 0; i < operands; ++i) {
            in[i] = plane(op.operands[i], p);
            changed_[i] = in[i].box;
        }
        const Box reached = op.reach(changed_.data());
        claim(op.value, p, reached);
        if (reached.empty()) continue;
        const float* base = op.totals() ? views_[p]->plane(op.value).view : nullptr;
        jobs_.push_back({reached, pixels(op.value, p), in, base});
        in += operands;
    }
    if (!jobs_.empty())
        op.compute(program_.kernels(), jobs_.data(), static_cast<int64_t>(jobs_.size()), memory_.scratch());
    if (Cost* all = cost(op.value))
        for (const Job& job : jobs_) all->cells += job.box.cells();
}

void Chunk::leave_out(const Operator& op, int64_t from, int64_t to, double* effects) {
    const Stopwatch watch(cost(op.value));
    const int met = op.operands[op.met()];
    const float* before = basis_.views.plane(met).view;
    for (int64_t p = from; p < to; ++p)
        if (!box(met, p).empty())
            effects[p] += basis_.outside[op.value].effect(box(op.value, p), pixels(met, p), before);
}

void Chunk::drop(int value, int64_t from, int64_t to, double* effects) {
    const Stopwatch watch(cost(value));
    for (int64_t p = from; p < to; ++p) {
        Box& left = box(value, p);
        if (!left.empty())
            left = shrunk(basis_.shrinks[value], plane(value, p), pixels(value, p), effects[p]);
    }
}

bool Chunk::run(const Occlusion* positions, int64_t count, double* effects,
                const std::atomic<bool>& cancelled) {
    size_ = count;
    for (int64_t p = 0; p < count; ++p) views_[p] = positions[p].views ? positions[p].views : &basis_.views;
    const auto& segments = room_.layout.segments;
    if (segments.empty()) occlude(positions, 0, count);
    for (const Segment& segment : segments) {
        for (int64_t from = 0; from < count; from += segment.chunk) {
            const int64_t to = std::min(from + segment.chunk, count);
            if (segment.first == 0) occlude(positions + from, from, to);
            for (std::size_t i = segment.first; i < segment.last; ++i) {
                if (cancelled) return false;
                const Operator& op = *program_.operators()[i];
                compute(op, from, to);
                if (basis_.tells_outside(op.value)) leave_out(op, from, to, effects);
                if (basis_.shrinks_value(op.value)) drop(op.value, from, to, effects);
            }
        }
    }
    return true;
}

}  // namespace krypton
