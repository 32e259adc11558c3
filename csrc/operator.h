// Operators on boxes. Each says what a changed box of its operands changes, and computes boxes of its value
// from pixels that lie in a changed patch, in the shared view, or in padding.
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
    const Plane* in;  // one for every operand
};

// What happens to an output after its sum.
struct Epilogue {
    float low = -kNoLimit, high = kNoLimit;
    Function function = kIdentity;
    float parameter = 0;

    bool clamps() const { return low != -kNoLimit || high != kNoLimit; }
};

class Operator {
  public:
    std::vector<int> operands;
    int value = -1;  // what it computes
    Epilogue epilogue;
    int64_t stored = 0;  // channels of its value, as stored

    virtual ~Operator() = default;
    // What changes when `changed[i]` of operand i does.
    virtual Box reach(const Box* changed) const;
    // Computes boxes; none of them is empty.
    void compute(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const;
    // The same without the epilogue's function.
    virtual void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const = 0;
    // Upper bound of the scratch memory for jobs of at most `box` cells, `count` of them.
    virtual std::size_t scratch_bytes(const Box& box, int64_t count) const = 0;
    // Whether cells of operand i are read that its reader's box does not hold.
    virtual bool reads_context(int) const { return true; }
    virtual std::size_t weight_bytes() const { return 0; }
    // Cells of its value to compute together, so that one pass over the weights serves them all.
    virtual int64_t preferred_cells() const { return 1; }
};

}  // namespace krypton
