// Operators on boxes: which box of an operator's value a change of its operands reaches, and the values of
// the cells there. Cells of operands come from changed boxes, from views or from padding.
#pragma once

#include <cstddef>
#include <limits>
#include <vector>

#include "cpu/kernels.h"
#include "plane.h"
#include "scratch.h"

namespace krypton {

constexpr float kNoLimit = std::numeric_limits<float>::infinity();

// One box to compute: `out` takes its pixels, row by row.
struct Job {
    Box box;
    float* out;
    const Plane* in;              // one for every operand
    const float* base = nullptr;  // un-occluded pixels of the value of an operator that `totals`; or null
};

// What follows an operator's sum: limits, then a function.
struct Epilogue {
    float low = -kNoLimit, high = kNoLimit;
    Function function = kIdentity;
    float parameter = 0;

    bool clamps() const { return low != -kNoLimit || high != kNoLimit; }
};

class Operator {
  public:
    std::vector<int> operands;
    int value = -1;  // number of the value that is computed
    Epilogue epilogue;
    int64_t channels = 0;  // of its value
    int64_t stored = 0;    // the same, as stored

    virtual ~Operator() = default;
    // Box of the value that changes where the box `changed[i]` of every operand i does.
    virtual Box reach(const Box* changed) const;
    // Computes boxes; none of them is empty.
    void compute(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const;
    // The same without the epilogue's function.
    virtual void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const = 0;
    // Upper bound of the scratch memory for jobs of at most `box` cells, `count` of them.
    virtual std::size_t scratch_bytes(const Box& box, int64_t count) const = 0;
    // The same of memory that is taken, meanwhile, by other means than the scratch.
    virtual std::size_t bytes_elsewhere(const Box&, int64_t) const { return 0; }
    // Whether operand i may be read outside its changed box.
    virtual bool reads_context(int) const { return true; }
    virtual std::size_t weight_bytes() const { return 0; }
    // Whether it takes sums over all cells of its operand, to a value of one cell. Where a job has a base, it
    // only adds what the changed box of the operand changes.
    virtual bool totals() const { return false; }
    // The operand of one cell that every cell is met with, or -1: a change of it changes cells outside the
    // changed box, which this operator leaves out; see outside.h.
    virtual int met() const { return -1; }
    // For such an operator, of one cell: the derivatives of a scalar by the elements of what it is met with,
    // from those by what that alone makes of the pixel of its first operand, and from that pixel.
    virtual void sensitivities(const float* gradient, const float* pixel, float* out) const;
    // Cells of its value to compute together, so that one pass over the weights serves them all.
    virtual int64_t preferred_cells() const { return 1; }
};

}  // namespace krypton
