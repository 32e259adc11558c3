// Operators on boxes: what one thread makes of a chunk of positions.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "basis.h"
#include "cost.h"

namespace krypton {

// What changes in the input at one position: some channels of a box of cells.
struct Occlusion {
    Box box;
    Interval channels;
    const float* contents = nullptr;  // what they become, NDHWC; null: the baseline
    const Views* views = nullptr;     // of the input that changes; null: of the session's own
};

// Memory of boxes, and scratch, for one thread at a time.
class Memory {
  public:
    // Room for what a layout foresees: what is there, where that is enough.
    void fit(const Layout& layout);
    float* boxes() const { return boxes_.get(); }
    Scratch& scratch() { return scratch_; }

  private:
    // operator new, since not every system has aligned_alloc.
    static constexpr std::align_val_t kAlign{64};
    struct Freed {
        void operator()(float* p) const { ::operator delete(p, kAlign); }
    };

    std::unique_ptr<float, Freed> boxes_;
    std::size_t floats_ = 0, scratch_bytes_ = 0;
    Scratch scratch_{0};
};

// Memories that are kept from run to run: large ones would go back to the system each time, and come again
// page by page.
class Memories {
  public:
    std::unique_ptr<Memory> take();
    void give(std::unique_ptr<Memory> memory);

  private:
    std::mutex lock_;
    std::vector<std::unique_ptr<Memory>> free_;
};

// The boxes of a chunk of positions, numbered within the chunk. Serves one chunk after the other with the
// same memory.
class Chunk {
  public:
    // `room`: that of the largest boxes of its positions. `costs` takes what its runs cost; or null.
    Chunk(const Basis& basis, const Room& room, Memory& memory, Costs* costs);

    // Computes the box of every value for `count` positions, at most those of the layout's chunk; `effects`
    // (by position) takes the first-order effect of what is dropped or left out. False if cancelled.
    // Throws std::invalid_argument where a box is larger than its extent.
    bool run(const Occlusion* positions, int64_t count, double* effects, const std::atomic<bool>& cancelled);

    int64_t size() const { return size_; }
    // A value at a position; after `run`, of those that the layout keeps to the end.
    Plane plane(int value, int64_t position) const;

  private:
    const Basis& basis_;
    const Room& room_;
    const Program& program_;
    Costs* costs_;
    Memory& memory_;
    std::vector<Box> boxes_;           // (values, chunk)
    std::vector<const Views*> views_;  // (chunk)
    int64_t size_ = 0;
    std::vector<Job> jobs_;
    std::vector<Plane> operands_;  // of all jobs
    std::vector<Box> changed_;     // of the operands of one

    Box& box(int value, int64_t position) { return boxes_[value * room_.layout.chunk + position]; }
    const Box& box(int value, int64_t position) const {
        return boxes_[value * room_.layout.chunk + position];
    }
    Cost* cost(int value) { return costs_ ? &costs_->values[value] : nullptr; }
    float* pixels(int value, int64_t position) const;
    // Sets the box of a value; throws where its memory is smaller.
    void claim(int value, int64_t position, const Box& box);
    void occlude(int64_t position, const Occlusion& at);
    // Of positions [from, to); the first one is the first of `positions`.
    void occlude(const Occlusion* positions, int64_t from, int64_t to);
    void compute(const Operator& op, int64_t from, int64_t to);
    // Adds what the operator does outside its boxes.
    void leave_out(const Operator& op, int64_t from, int64_t to, double* effects);
    // Cuts the boxes of a value down to what changed by its threshold.
    void drop(int value, int64_t from, int64_t to, double* effects);
};

}  // namespace krypton
